"""How a network is trained: of all that can be set, what makes no sense is refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from subspect.giving.options import RATES, Optimiser
from subspect.ground.errors import SubspectError, near, some
from subspect.swapping.naming import cues_named

HELD_OUT = 0.05  #: share of the images


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train.

    Attributes:
        epochs: passes over the images.
        batch_size: images in a step.
        optimiser: "sgd" (Nesterov momentum 0.9) or "adamw".
        rate: learning rate; it rises to this over the first 50 steps, or the first tenth of all if that is less, and falls to
            0 as a cosine. 0.01 for SGD and 0.0001 for AdamW unless given.
        weight_decay: pull of the weights to 0.
        layers: names of the modules that learn, with all within; all unless given. The others stay as they are, batch norm's
            averages included.
        shift: pixels, at most, by which an image is moved at random, edges repeated.
        flip: whether images are mirrored at random.
        without_cues: names of cues that are swapped between the images of a batch, so that nothing can lean on them.
        held_out: share of the images that is held out.
        seed: of the order of the images and all else that is random.

    Raises:
        SubspectError: a value that makes no sense.

    Example:
        >>> subspect.Settings(epochs=3, optimiser="adamw").rate
        0.0001
    """

    epochs: int = 3
    batch_size: int = 128
    optimiser: Optimiser = "sgd"
    rate: float | None = None
    weight_decay: float = 5e-4
    layers: tuple[str, ...] = ()
    shift: int = 0
    flip: bool = False
    without_cues: tuple[str, ...] = ()
    held_out: float = HELD_OUT
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimiser not in RATES:
            raise SubspectError(f"optimiser must be one of {', '.join(RATES)}, got {self.optimiser!r}")
        rate = RATES[self.optimiser] if self.rate is None else self.rate
        object.__setattr__(self, "rate", rate)
        for name, fine, expected in (
            ("epochs", self.epochs >= 1, "1 or more"),
            ("batch_size", self.batch_size >= 2, "2 or more"),
            ("shift", self.shift >= 0, "0 or more"),
            ("held_out", 0 < self.held_out < 1, "between 0 and 1"),
            ("rate", 0 < rate < float("inf"), "positive"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
        ):
            if not fine:
                raise SubspectError(f"{name} must be {expected}, got {getattr(self, name):g}")
        cues_named(self.without_cues or None)

    @classmethod
    def of(cls, given: Settings | Mapping[str, Any] | None) -> Settings:
        """Return settings as they are given: as such, by the names of some fields, or not at all.

        Raises:
            SubspectError: a name that is none of a field's, or a value that makes no sense.
        """
        if not isinstance(given, Mapping):
            return given or cls()
        names = [one.name for one in fields(cls)]
        if unknown := [str(name) for name in given if name not in names]:
            raise SubspectError(
                f"settings have no {some(unknown)}{near(unknown[0], names)}; give only {some(names, len(names))}"
            )
        return cls(**given)
