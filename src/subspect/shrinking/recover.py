"""What a network that was narrowed has lost is won back without training, in seconds, on images without labels.

Batch norm's averages are moved from the old ones towards those of the narrowed network on the images, as far as that brings
what it says nearer to what is wanted; and the head is refitted on the features that are left: by the least mean
Kullback-Leibler divergence from the probabilities that the teacher, the dense network or the decomposed one, gives the wanted
classes (Hinton et al. 2015, arXiv 1503.02531, without a temperature), over weights on the same places. It is convex; L-BFGS
starts from the weights given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

BATCH = 25  #: images that run at a time
_TRIED = 100  # images, at most, on which averages are compared
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the way from the old averages to the new ones
_PULL = 1e-4  # towards the start, for the squared distance in units of the features' spread
_STEPS = 200


def fit_batch_norm(model: nn.Module, pixels: Tensor, wanted: Tensor) -> None:
    """Move the averages of every batch norm towards those on some images, as far as what the network says gets better.

    Args:
        model: the network, in place.
        pixels: (n, …) images.
        wanted: (n, c) logits that the network is to say.
    """
    norms = _norms(model)
    if not norms:
        return
    old = [_averages(norm) for norm in norms]
    batch_norm_anew(model, pixels)
    new = [_averages(norm) for norm in norms]
    goal, best = F.log_softmax(wanted[:_TRIED].double(), dim=1), (float("inf"), 0.0)

    def move(share: float) -> None:
        for norm, before, after in zip(norms, old, new, strict=True):
            for one, start, end in zip(_averages_of(norm), before, after, strict=True):
                one.copy_(torch.lerp(start, end, share))

    with torch.no_grad():
        for share in _SHARES:
            move(share)
            said = torch.cat([vectors(model(part)) for part in torch.split(pixels[:_TRIED], BATCH)])
            apart = float(F.kl_div(F.log_softmax(said.double(), dim=1), goal, log_target=True, reduction="batchmean"))
            best = min(best, (apart, share))
        move(best[1])


def batch_norm_anew(model: nn.Module, pixels: Tensor) -> None:
    """Learn the averages of every batch norm anew on some images, all counted alike."""
    norms = _norms(model)
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for part in torch.split(pixels, BATCH):
            if len(part) > 1:
                model(part)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
        norm.eval()


def vectors(output: Tensor) -> Tensor:
    """Return logits (n, c), of maps the mean over places."""
    return output.flatten(2).mean(2) if output.ndim > 2 else output


def _norms(model: nn.Module) -> list[_BatchNorm]:
    return [one for one in model.modules() if isinstance(one, _BatchNorm) and one.track_running_stats]


def _averages_of(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var


def _averages(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    mean, var = _averages_of(norm)
    return mean.clone(), var.clone()


def refit(weight: Tensor, bias: Tensor, features: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a head that says on some features what is wanted of it, zero where it is zero.

    Args:
        weight: (c, d) to start with.
        bias: (c,).
        features: (n, d).
        wanted: (n, c) logits of the teacher.
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


def calibrated(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return logits by one scale and a shift for each class, so that they say as nearly as can be what is wanted.

    Args:
        logits: (n, c).
        wanted: (n, c) logits.
    """
    z, goal = logits.detach().double(), F.log_softmax(wanted.detach().double(), dim=1)
    scale, shift = (one.double().requires_grad_() for one in (torch.ones(1), torch.zeros(z.shape[1])))
    steps = torch.optim.LBFGS([scale, shift], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        steps.zero_grad()
        value = F.kl_div(F.log_softmax(scale * z + shift, dim=1), goal, log_target=True, reduction="batchmean")
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        steps.step(loss)  # type: ignore[no-untyped-call]
    return (scale * z + shift).detach()


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
