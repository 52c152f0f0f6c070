"""Is there something in a study and a decomposition that somebody should look at? All checks, one after the other."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points

from subspect.checking.about import About
from subspect.checking.finding import Check, Finding, Skipped
from subspect.checking.on_classes import ON_CLASSES
from subspect.checking.on_cues import ON_CUES
from subspect.checking.on_data import ON_DATA
from subspect.checking.on_features import ON_FEATURES
from subspect.checking.result import Checked
from subspect.ground.errors import SubspectError, near, some
from subspect.images.opening import ImageSource
from subspect.networks.network import Network
from subspect.studies.decompositions import DecompositionLike, opened
from subspect.studies.same_network import same_network
from subspect.studies.study import StudyLike
from subspect.swapping.stored import kept_cues

log = logging.getLogger("subspect")

CHECKS: tuple[Check, ...] = (*ON_CUES, *ON_FEATURES, *ON_CLASSES, *ON_DATA)  #: those that are built in
GROUP = "subspect.checks"  #: of the entry points by which installed packages bring checks


def check(
    study: StudyLike,
    decomposition: DecompositionLike,
    *,
    network: Network | None = None,
    images: ImageSource | None = None,
    on: str | None = None,
    ignore: Sequence[str] = (),
    checks: Sequence[Check] = (),
) -> Checked:
    """Look for what somebody should look at; docs/findings.md lists the codes.

    Args:
        study: where the features are stored, and the cues if they were measured.
        decomposition: of this study.
        network: that was observed; without it, what runs it is skipped.
        images: where the images are, if they were in memory or have been moved since.
        on: the image set to measure on; one that took no part in the choice unless given.
        ignore: codes of checks to leave out.
        checks: of one's own, besides those that are built in and those that installed packages bring.

    Returns:
        What was found, and which checks passed, were skipped, and why, or were ignored.

    Raises:
        SubspectError: another network, no such image set, a code to ignore that no check has, what is no check, a check whose
            code is taken, or a damaged file of cues.

    Example:
        >>> checked = subspect.check("study", "pursuit-k5")
        >>> "F201" in checked.codes
        True
    """
    study, decomposition = opened(study, decomposition)
    if on is not None:
        study.image_set(on)
    network = None if network is None else same_network(study, network)
    kept_cues(study, decomposition)  # a damaged file is an error, and no reason to skip what reads it
    installed, skipped = _installed()
    all_checks = _unique([*CHECKS, *installed, *_checks_given(checks)])
    titles = {one.code: one.title for one in all_checks} | dict.fromkeys(skipped, "a check of an installed package")
    ignored = _ignored(ignore, list(titles))
    about, found, passed = About(study, decomposition, network, images, on), list[Finding](), dict[str, str]()
    for one in all_checks:
        if one.code in ignored:
            continue
        try:
            here, scope = _asked(one, about)
            found += [_of_examples(finding) for finding in here] if study.identity.features_alone else here
            if not here:
                passed[one.code] = scope
        except Skipped as reason:
            skipped[one.code] = str(reason)
    if study.identity.features_alone:
        skipped = {code: _said_of_examples(why) for code, why in skipped.items()}
    skipped = {code: why for code, why in skipped.items() if code not in ignored}
    return Checked(study.address, decomposition.name, tuple(found), passed, skipped, ignored, titles)


def _of_examples(finding: Finding) -> Finding:
    """Return what was found in a study of features alone, in which there are no images, as cues have them."""
    if finding.code.startswith("C"):
        return finding
    said = [_said_of_examples(text) for text in (finding.text, finding.how, finding.why, finding.do)]
    return replace(finding, text=said[0], how=said[1], why=said[2], do=said[3])


def _said_of_examples(text: str) -> str:
    return re.sub(r"\bimage(s?)\b(?! sets?\b)", r"example\1", text)


def _asked(check: Check, about: About) -> tuple[list[Finding], str]:
    """Ask a check what it finds and, if that is nothing, how far it could look; what fails is skipped, in words.

    Raises:
        Skipped: it cannot look, failed, or returned something else.
    """
    try:
        found = list(check.find(about))
        scope = "" if found else check.scope(about)
    except Skipped:
        raise
    except Exception as error:
        log.debug("check %s failed", check.code, exc_info=True)
        raise Skipped(_in_words(error)) from error
    odd = next((one for one in found if not isinstance(one, Finding)), None)
    if odd is not None:
        raise Skipped(f"it must return a list of subspect.Finding; there is {type(odd).__name__} in it")
    return found, scope


def _in_words(error: BaseException) -> str:
    return str(error) if isinstance(error, SubspectError) else f"it failed: {type(error).__name__}: {error}"


def _installed() -> tuple[list[Check], dict[str, str]]:
    """Return the checks that installed packages bring; and name → why, of those that can't be loaded."""
    found, failed = list[Check](), dict[str, str]()
    for point in entry_points(group=GROUP):
        try:
            found.append(_loaded(point))
        except (Exception, SystemExit) as error:
            log.debug("loading the check %s failed", point.value, exc_info=True)
            failed[point.name] = f"loading {point.value}: {_in_words(error)}"
    return found, failed


def _loaded(point: EntryPoint) -> Check:
    made = point.load()
    return _checked(made() if isinstance(made, type) else made)


def _checks_given(given: object) -> list[Check]:
    listed = [given] if isinstance(given, Check | type) else list(given) if isinstance(given, Sequence) else [given]
    return [_checked(one) for one in listed]


def _checked(one: object) -> Check:
    """Return a check, once it is one.

    Raises:
        SubspectError: it is something else, or lacks a code, a title, how or why.
    """
    if not isinstance(one, Check):
        what = f"the class {one.__name__}: give {one.__name__}()" if isinstance(one, type) else type(one).__name__
        raise SubspectError(f"a check must be a subspect.Check, got {what}")
    for name in ("code", "title", "how", "why"):
        value = getattr(one, name, None)
        if not isinstance(value, str) or not value:
            raise SubspectError(f"the check {type(one).__name__} must have a {name}, as text; got {value!r}")
    return one


def _unique(checks: Sequence[Check]) -> list[Check]:
    known = dict[str, Check]()
    for one in checks:
        if one.code in known:
            names = [f"{type(each).__module__}.{type(each).__qualname__}" for each in (known[one.code], one)]
            raise SubspectError(
                f"the code {one.code!r} is taken: {names[0]} has it, and {names[1]} as well; give one of them another code"
            )
        known[one.code] = one
    return list(known.values())


def _ignored(given: Sequence[str] | str, known: Sequence[str]) -> tuple[str, ...]:
    codes = tuple(dict.fromkeys([given] if isinstance(given, str) else given))
    for code in codes:
        if code not in known:
            raise SubspectError(
                f"no check has the code {code!r}{near(code, known)}; there are {some(known, len(known))}"
            )
    return codes
