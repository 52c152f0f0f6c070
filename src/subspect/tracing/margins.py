"""What a class's margin is by a decomposed head, as a number that has a gradient.

The margin of an image of class c is ``z_c − max over the others of z``, with decomposed logits z. Where only some classes are
wanted, the others are those of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subspect.heads.decomposition import Decomposition


@dataclass(frozen=True, eq=False)
class Margins:
    """The decomposed head of some classes.

    Attributes:
        weight: (c, d) float32.
        bias: (c,) float32.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, decomposition: Decomposition, labels: Sequence[int] | None = None) -> Margins:
        """Return those of the classes of a decomposition, of all unless some are wanted."""
        weight, bias = (torch.from_numpy(array).float() for array in decomposition.matrix())
        return cls(weight, bias) if labels is None else cls(weight[list(labels)], bias[list(labels)])

    def logits(self, features: Tensor) -> Tensor:
        """Return decomposed logits (n, c) of features (n, d)."""
        return features @ self.weight.to(features.device).T + self.bias.to(features.device)

    def __call__(self, features: Tensor, own: Tensor) -> Tensor:
        """Return (n,): the margins of images of classes ``own`` (n,), counted among these, by their features (n, d)."""
        return margins_of(self.logits(features), own)


def margins_of(logits: Tensor, own: Tensor) -> Tensor:
    """Return (n,): the margins of images of classes ``own`` (n,), counted among these, by their logits (n, c)."""
    own = own.to(logits.device)
    mine = logits.gather(1, own[:, None])[:, 0]
    if logits.shape[1] == 1:  # of a single class: how far it is from nothing
        return mine
    return mine - logits.scatter(1, own[:, None], -torch.inf).amax(dim=1)
