"""What a finding is, and what a check is that finds it.

A check of one's own is a class with a code, a title, how it looks, why that matters, and ``find``; see docs/findings.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subspect.checking.about import About


class Skipped(Exception):
    """A check cannot look: the message says what it needs.

    Example:
        >>> class Blue(subspect.Check):
        ...     code, title, how, why = "X002", "too blue", "the mean colour", "it may be the sky"
        ...
        ...     def find(self, about):
        ...         raise subspect.Skipped("needs the images")
        >>> decomposition.findings(checks=[Blue()]).skipped["X002"]
        'needs the images'
    """


@dataclass(frozen=True)
class Finding:
    """Something that somebody should look at.

    Attributes:
        code: of the check, which stays the same.
        title: of the check.
        text: what was found, one sentence with the figures.
        how: how it was detected.
        why: why it matters.
        do: what to do, and the command.
        classes: names of the classes that it is about; empty for all.
        figures: name → JSON value.

    Example:
        >>> for finding in decomposition.findings().found:
        ...     assert finding.code[0] in "CFDMN" and finding.text and finding.do
    """

    code: str
    title: str
    text: str
    how: str
    why: str
    do: str
    classes: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


class Check(ABC):
    """Something that can be found.

    Attributes:
        code: by which it is known and ignored.
        title: what it looks for, in a few words.
        how: how it looks.
        why: why a finding matters.

    Example:
        >>> class FewClasses(subspect.Check):
        ...     code, title = "X001", "few classes"
        ...     how, why = "their number", "chance alone is right often"
        ...
        ...     def find(self, about):
        ...         if len(about.study.identity.class_names) < 5:
        ...             yield self.found("there are four classes", do="take more")
        >>> [finding.code for finding in decomposition.findings(checks=[FewClasses()]).found if finding.code == "X001"]
        ['X001']
    """

    code: str
    title: str
    how: str
    why: str

    @abstractmethod
    def find(self, about: About) -> Sequence[Finding]:
        """Return what is found, `found` each; nothing where all is well.

        Raises:
            Skipped: it cannot look.
        """

    def scope(self, about: About) -> str:
        """Say how far it could look, where that may be less than all; asked after nothing was found."""
        return ""

    def found(
        self, text: str, do: str, classes: Sequence[str] = (), figures: Mapping[str, Any] | None = None
    ) -> Finding:
        """Return a finding of this check."""
        return Finding(self.code, self.title, text, self.how, self.why, do, tuple(classes), figures or {})
