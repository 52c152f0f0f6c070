"""What a network that was narrowed has lost is won back without training, in seconds, on images without labels.

Batch norm's averages are learned anew, and the head is refitted on the features that are left: by the least mean
Kullback-Leibler divergence from the probabilities that the decomposed network gives the wanted classes (Hinton et al. 2015,
arXiv 1503.02531, without a temperature), over weights on the same places. It is convex; L-BFGS starts from the weights given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_PULL = 1e-4  # towards the start, for the squared distance in units of the features' spread
_STEPS = 200


def refit(weight: Tensor, bias: Tensor, features: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a head that says on some features what is wanted of it, zero where it is zero.

    Args:
        weight: (c, d) to start with.
        bias: (c,).
        features: (n, d).
        wanted: (n, c) logits of the decomposed network.
    """
    x, goal, places = features.double(), F.log_softmax(wanted.double(), dim=1), weight != 0
    scale = x.std(dim=0, correction=0).clamp_min(1e-12)
    start = torch.cat([weight.double()[places], bias.double()])
    units = torch.cat([scale.expand_as(weight)[places], torch.ones_like(bias.double())])
    moved = torch.zeros_like(start, requires_grad=True)  # in units of the features' spread
    steps = torch.optim.LBFGS([moved], max_iter=_STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-8)

    def head() -> tuple[Tensor, Tensor]:
        values = start + moved / units
        rows = torch.zeros(weight.shape, dtype=torch.float64).index_put((places,), values[: -len(bias)])
        return rows, values[-len(bias) :]

    def loss() -> Tensor:
        steps.zero_grad()
        rows, shift = head()
        said = F.log_softmax(x @ rows.T + shift, dim=1)
        value = F.kl_div(said, goal, log_target=True, reduction="batchmean") + _PULL * moved.square().mean()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    if len(bias) > 1:
        with torch.enable_grad():
            steps.step(loss)  # type: ignore[no-untyped-call]
    rows, shift = head()
    return rows.detach().to(weight.dtype), shift.detach().to(bias.dtype)


def features_of(model: nn.Module, head: str, parts: Sequence[Tensor]) -> Tensor:
    """Return what the head of a network reads of some images, (n, d); of maps the mean over places."""
    kept: list[Tensor] = []
    handle = model.get_submodule(head).register_forward_pre_hook(
        lambda _, args: kept.append(args[0].flatten(2).mean(2) if args[0].ndim > 2 else args[0])
    )
    try:
        with torch.no_grad():
            for part in parts:
                model(part)
    finally:
        handle.remove()
    return torch.cat(kept)
