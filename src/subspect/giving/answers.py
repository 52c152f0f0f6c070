"""What a teacher says of images, and the features by which it says so, is asked once: the same pictures come again and again.

A network that learns from it is told how far it is from both: a channel of its last layer is one of the teacher's, and what
few pictures' probabilities leave open, their features say (Romero et al. 2015, arXiv 1412.6550).

A picture is known by the SHA-256 of its numbers, so that one that was mirrored or moved is another. What is remembered goes
with the training's state, so that a training that goes on learns from the very same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subspect.images.inputs import Inputs, Pixels, called
from subspect.networks.finding import Head, logits_of
from subspect.shrinking.recover import reading

_MOST = 2**26  # bytes of answers; what comes when they are full is asked each time


@dataclass(frozen=True, eq=False)
class Shared:
    """The features that a network shares with its teacher.

    Attributes:
        places: (d,) int64, of each feature of the network its place among the teacher's.
        spread: (d,) the teacher's standard deviation of each; of those that hardly move, a tenth of the mean.
    """

    places: Tensor
    spread: Tensor


class Answer(NamedTuple):
    """What a teacher says of images.

    Attributes:
        logits: (n, c).
        features: (n, d), those that are shared.
    """

    logits: Tensor
    features: Tensor


class Answers:
    """What a network says of images.

    Args:
        model: the network, in evaluation mode.
        head: its head, a single layer.
        shared: the features that are wanted as well.
    """

    def __init__(self, model: nn.Module, head: Head, shared: Shared) -> None:
        self.model, self._head, self._shared = model, head, shared
        self._said: dict[bytes, Tensor] = {}

    def missed(self, model: nn.Module, pixels: Pixels) -> Tensor:
        """Return how far another network is from it.

        It is the cross-entropy to its probabilities, plus the mean squared distance of features in units of their spread.
        """
        wanted, found = self(pixels), read(model, self._head, pixels)
        apart = ((found.features - wanted.features) / self._shared.spread.to(found.features.device)).square().mean()
        return F.cross_entropy(found.logits, wanted.logits.softmax(dim=1)) + apart

    def __call__(self, pixels: Pixels) -> Answer:
        """Return what it says of images (n, …)."""
        rows = self._rows(pixels)
        return Answer(rows[:, : -len(self._shared.places)], rows[:, -len(self._shared.places) :])

    def _rows(self, pixels: Pixels) -> Tensor:
        if isinstance(pixels, Inputs):  # of several parts
            return self._asked(pixels)
        keys = [sha256(one.tobytes()).digest() for one in pixels.detach().cpu().contiguous().numpy()]
        new = [place for place, key in enumerate(keys) if key not in self._said]
        found = dict(zip((keys[place] for place in new), self._asked(pixels[new]) if new else (), strict=True))
        rows = torch.stack([self._said[key] if key in self._said else found[key] for key in keys])
        room = _MOST // (rows.element_size() * rows.shape[1]) - len(self._said)
        self._said.update(list(found.items())[: max(room, 0)])
        return rows

    def state(self) -> dict[str, Tensor]:
        """Return what is remembered."""
        if not self._said:
            return {}
        keys = torch.from_numpy(np.frombuffer(b"".join(self._said), np.uint8).reshape(len(self._said), -1).copy())
        return {"keys": keys, "said": torch.stack(list(self._said.values()))}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Remember it again."""
        if state:
            place = next(self.model.parameters()).device
            keys = [row.tobytes() for row in state["keys"].numpy()]
            self._said = dict(zip(keys, state["said"].to(place), strict=True))

    def _asked(self, pixels: Pixels) -> Tensor:
        with torch.no_grad():
            found = read(self.model, self._head, pixels)
            return torch.cat([found.logits, found.features[:, self._shared.places]], dim=1)


def read(model: nn.Module, head: Head, pixels: Pixels) -> Answer:
    """Return the logits and all features of a network, of maps the mean over places."""
    with reading(model, head.name) as kept:
        logits = logits_of(called(model, pixels), head, len(pixels))
    return Answer(logits, kept[0])
