"""What channels, branches and pixels are worth to some classes.

What is taken away is worth how far it moves what the network says of the classes' images: the Kullback-Leibler divergence
between the probabilities, own class against the strongest other, before and after, by the margins of the decomposed head among
the wanted classes alone, at a temperature of 2. A margin that changes by much where the network is sure counts for little, one
near the boundary for much. A channel that only unused features read is worth nothing.

For a residual branch that is left out, and for a smaller size of the images, it is measured by running, after a scale and a
shift of the logits are fitted: what these can win back isn't lost, and with smaller images it is most. For a group of tied
channels, each set to its mean, it is estimated: what the margin changes by is taken to first order
(`subspect.networks.gates`), the effects of all layers that write the group are added image by image, and the divergence is
taken to second order, q (1 − q) / 2 times the square, with the probability q of the own class. Squares add up where effects
have nothing to do with each other, so that many channels, a branch and a size can be compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from subspect.networks.gates import Gates
from subspect.networks.network import Network
from subspect.shrinking.recover import BATCH, calibrated, said_of
from subspect.shrinking.tied import Group
from subspect.shrinking.traced import Branch, Untraceable, at_size_within, without_branches
from subspect.tracing.margins import Margins, margins_of

_BRANCH_IMAGES = 100  # on which branches are measured, each by a pass of its own
_TEMPERATURE = 2.0  # so that images of which the network is sure count too
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Images:
    """Images of the wanted classes.

    Attributes:
        pixels: (n, …) as the network takes them.
        own: (n,) int64, the class of each, counted among the wanted ones.
    """

    pixels: Tensor
    own: Tensor

    def parts(self) -> list[Images]:
        """Return them in batches."""
        cuts = torch.split(self.pixels, BATCH), torch.split(self.own, BATCH)
        return [Images(pixels, own) for pixels, own in zip(*cuts, strict=True)]


class Worth:
    """What a network's channels do, measured on some images.

    Args:
        model: a traced network on the CPU, with a linear layer for the wanted classes as head.
        head: name of that layer.
        images: of these classes.
        advance: called with the number of images that ran.

    Raises:
        Untraceable: none of its layers can be weighed.
    """

    def __init__(
        self, model: fx.GraphModule, head: str, images: Images, advance: Callable[[int], object] = lambda _: None
    ) -> None:
        self.model, self.images, self._advance = model, images, advance
        network = Network(model, head=head)
        network.find_head(images.pixels[:2])
        self.gates = Gates(network, images.pixels[:2])
        if not self.gates.layers:
            raise Untraceable("no layer before its head has a row for each image")
        margins = Margins(network.head.weight, network.head.bias)
        parts = images.parts()
        sums: dict[str, Tensor] = {}
        for part in parts:
            for name, own in self.gates.levels(part.pixels)[1].items():
                sums[name] = sums.get(name, torch.zeros(())) + own.double().sum(dim=0)
        means = {name: (total / len(images.pixels)).float() for name, total in sums.items()}
        found: dict[str, list[Tensor]] = {layer.name: [] for layer in self.gates.layers}
        for part in parts:
            [effects] = self.gates.effects(part.pixels, means, lambda x, own=part.own: [margins(x, own)])  # type: ignore[misc]
            for name, one in effects.items():
                found[name].append(one.cpu())
            advance(len(part.pixels))
        self.effects = {name: torch.cat(one) for name, one in found.items()}
        said = said_of(model, images.pixels)
        self._sure = torch.sigmoid(margins_of(said, images.own).double() / _TEMPERATURE)
        self._few, self._now = images.pixels[:_BRANCH_IMAGES], said[:_BRANCH_IMAGES]

    def knows(self, group: Group) -> bool:
        """Tell whether it can be weighed: all layers that write it have a row for each image."""
        return self.effects.keys() >= set(group.writers)

    def of(self, group: Group) -> Values:
        """Return (channels,): how far what is said moves, to second order."""
        change = sum(self.effects[name].double() for name in group.writers)
        moved = (self._sure * (1 - self._sure))[:, None] * (torch.as_tensor(change) / _TEMPERATURE).square() / 2
        return np.asarray(moved.mean(dim=0))

    def of_branches(self, found: Sequence[Branch]) -> list[float]:
        """Return how far what is said moves without each of some branches."""
        moved = []
        for branch in found:
            less = copy.deepcopy(self.model)
            without_branches(less, [(branch.sum, branch.other)])
            moved.append(self._moved(less))
            self._advance(0)
        return moved

    def of_size(self, size: tuple[int, int]) -> float | None:
        """Return how far it moves with images of this height and width; None where the network takes none such."""
        try:
            with at_size_within(self.model, size):
                return self._moved(self.model)
        except (RuntimeError, ValueError):  # layers that no longer fit
            return None

    def _moved(self, model: nn.Module) -> float:
        """Return the divergence of what another network says, calibrated, from what this one says."""
        after = calibrated(said_of(model, self._few), self._now)
        own = self.images.own[: len(after)]
        before, after = (margins_of(logits, own).double() / _TEMPERATURE for logits in (self._now, after))
        terms = [
            torch.sigmoid(sign * before) * (F.logsigmoid(sign * before) - F.logsigmoid(sign * after))
            for sign in (1, -1)
        ]
        return float(torch.stack(terms).sum(dim=0).mean())
