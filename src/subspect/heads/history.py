"""How a decomposition came to be, step by step: chosen, settled, refitted, dropped; and what other sizes would have cost.

The steps are stored as JSON objects, told apart by a key that no other has, and read here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from subspect.ground.errors import SubspectError
from subspect.ground.schemas import as_type

#: which images of a set: "all", or, by a hash of the image id, those "held out 20 %" to measure on, and "all but 20 %"
Part = Annotated[str, msgspec.Meta(pattern=r"^(all|(held out|all but) [0-9.]+ %)$")]
_EARLIER = {"80 %": "all but 20 %", "20 %": "held out 20 %"}  # how files of before called them
_TOWARDS = {"labels": "labels", "dense": "dense network"}
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Index = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


@dataclass(frozen=True)
class Chosen:
    """Features were chosen.

    Attributes:
        method: how.
        k: what was asked for: a number of features, a share of the mass, a mean with its limits, or "auto"; None for features
            from a file.
        set: the image set.
        part: which part of it.
        labelled: whether it has labels.
        target: what the decomposed head was to come close to.
        pool: features there were for all classes together.
        images: fingerprint of the image set; None in files of before it was kept.
        supports: fingerprint of the features, where they come from a file.
        stable: whether features were favoured that are chosen again on other images.
        weights: "ternary" where they were chosen to be readable (see `subspect.choosing.ternary`).

    Example:
        >>> decomposition.chosen.method, decomposition.chosen.k, decomposition.chosen.set
        ('pursuit', 5, 'train')
    """

    method: str
    k: int | float | dict[str, Any] | str | None
    set: str
    part: Part
    labelled: bool = True
    target: str | None = None
    pool: int | None = None
    images: str | None = None
    supports: str | None = None
    stable: bool | None = None
    weights: Literal["ternary"] | None = None

    @property
    def options(self) -> str:
        """Write what was asked for, of pursuit, as options of the command line."""
        size = self.k
        if isinstance(size, dict):
            limits = [str(size.get(name)) for name in ("least", "most")] if size.get("most") else []
            size = ":".join(["mean", str(size.get("k")).removesuffix(".0"), *limits])
        pool, target = f" --pool {self.pool}" * bool(self.pool), f" --target {self.target}" * (self.target == "labels")
        return f"-k {size}{pool}{target}{' --stable' * bool(self.stable)}{' --ternary' * bool(self.weights)}"

    @property
    def favoured(self) -> str:
        """Say what was asked for besides features that explain most; nothing where nothing was."""
        stable = ", favouring those that the dense head leans on (--stable), alike on all images" * bool(self.stable)
        return stable + ", with readable weights (--ternary)" * bool(self.weights)


@dataclass(frozen=True)
class Promised:
    """What is promised (see `subspect.choosing.promise`): from which image set, and in words.

    Example:
        >>> made = study.decompose(subspect.Auto(tolerance=0.3, promise="unseen"))
        >>> settled = made.auto
        >>> settled.promise is None or settled.promise.confidence == 0.95
        True
    """

    set: str
    text: str
    measure: str | None = None
    loss: float | None = None
    confidence: float | None = None
    images: int | None = None
    kept: bool | None = None


@dataclass(frozen=True)
class Settled:
    """A number of features was settled.

    Attributes:
        tolerance: the share that may be lost.
        measure: of what.
        met: whether it is kept.
        sized_on: image set and part that the number was chosen on.
        promise: what is promised.
        no_promise: why nothing is.

    Example:
        >>> made = study.decompose(subspect.Auto(tolerance=0.2))
        >>> settled = made.auto
        >>> settled.measure, settled.tolerance
        ('fidelity', 0.2)
    """

    tolerance: float
    measure: str
    met: bool
    sized_on: tuple[str, Part]
    promise: Promised | None
    no_promise: str | None


@dataclass(frozen=True)
class Refitted:
    """Weights and biases were re-learned.

    Attributes:
        refit: towards what.
        loss: at the end, in nats.
        steps: of the optimiser.
        converged: whether it came to an end.
        refit_on: the image set, where it isn't the one that features were chosen on.
        without_cues: cues that were swapped in copies of the images, so that nothing could lean on them.
        reselected: whether features were chosen anew on the same images.

    Example:
        >>> decomposition.refitted.refit, decomposition.refitted.converged
        ('dense', True)
    """

    refit: Literal["labels", "dense"]
    loss: float | None = None
    steps: int | None = None
    converged: bool | None = None
    refit_on: str | None = None
    without_cues: tuple[str, ...] | None = None
    reselected: bool | None = None

    @property
    def in_words(self) -> str:
        """Say what was done."""
        what = "features chosen anew and weights" if self.reselected else "weights"
        copies = f" and on copies with {' and '.join(self.without_cues)} swapped" if self.without_cues else ""
        return f"{what} re-learned on {self.refit_on}{copies} towards the {_TOWARDS[self.refit]}"


@dataclass(frozen=True)
class Dropped:
    """A class was made to do without a feature: class index, feature.

    Example:
        >>> edited = decomposition.edit([("cat", 12)]).decomposition
        >>> edited.edits
        ('cat without feature 12',)
        >>> edited.history[-1]  # doctest: +SKIP
    """

    dropped: tuple[Index, Index]


@dataclass(frozen=True)
class CurvePoint:
    """What some number of features costs, on images that took no part in choosing them.

    Attributes:
        k: mean number of features of a class.
        refit: whether weights were re-learned.
        images: number of images.
        fidelity: share.
        accuracy: share.
        dense_accuracy: share.

    Example:
        >>> [point.k for point in decomposition.curve if point.refit]
        [5.0]
    """

    k: Annotated[float, msgspec.Meta(ge=0)]
    refit: bool
    images: Annotated[int, msgspec.Meta(ge=1)]
    fidelity: Share
    accuracy: Share
    dense_accuracy: Share


Step = Chosen | Settled | Refitted | Dropped
_KINDS: dict[str, type[Step]] = {"method": Chosen, "tolerance": Settled, "dropped": Dropped, "refit": Refitted}
_LATER = ("images", "supports", "weights", "refit_on", "without_cues", "reselected")  # fields that a step may lack


def history_json(history: Iterable[Step]) -> list[dict[str, Any]]:
    """Return steps as JSON values; a field that a step may lack is left out where it does."""
    return [
        {key: value for key, value in asdict(step).items() if value is not None or key not in _LATER}
        for step in history
    ]


def read_history(steps: Sequence[Mapping[str, Any]], path: Path, n_classes: int) -> tuple[Step, ...]:
    """Read the steps that a file holds.

    Raises:
        SubspectError: there is none, the first isn't a choice, one is misshaped, or drops from a class there is not.
    """
    if not steps:
        raise SubspectError(f"{path} is not a decomposition of subspect: its history is empty")
    found = tuple(_step(step, path, Chosen if place == 0 else None) for place, step in enumerate(steps))
    if any(isinstance(step, Dropped) and step.dropped[0] >= n_classes for step in found):
        raise SubspectError(f"{path} is not a decomposition of subspect: its history drops from a class there is not")
    return found


def _step(step: Mapping[str, Any], path: Path, kind: type[Step] | None) -> Step:
    kind = kind or next((kind for key, kind in _KINDS.items() if key in step), None)
    if kind is None:
        raise SubspectError(
            f"{path} is not a decomposition of subspect: its history holds a step that is none: {sorted(step)[:5]}"
        )
    return as_type(kind, _as_now(step), path, "a decomposition")


def _as_now(step: Mapping[str, Any]) -> dict[str, Any]:
    """Call the parts of a set as they are called now."""
    values = dict(step)
    if isinstance(values.get("part"), str):
        values["part"] = _EARLIER.get(values["part"], values["part"])
    sized = values.get("sized_on")
    if isinstance(sized, list) and len(sized) == 2 and isinstance(sized[1], str):
        values["sized_on"] = [sized[0], _EARLIER.get(sized[1], sized[1])]
    return values


def read_curve(points: Sequence[Mapping[str, Any]], path: Path) -> tuple[CurvePoint, ...]:
    """Read the points of a curve that a file holds.

    Raises:
        SubspectError: one is misshaped.
    """
    return tuple(as_type(CurvePoint, point, path, "a decomposition") for point in points)
