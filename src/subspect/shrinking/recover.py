"""What a network that was narrowed has lost is won back without training, in seconds, on images without labels.

Batch norm's averages are moved from the old ones towards those of the narrowed network on the images, as far as that brings
what it says, after a scale and a shift of the logits, nearer to what is wanted, and these go into the head; and the head is
refitted on the features that are left: by the least mean Kullback-Leibler divergence from the probabilities that the teacher,
the dense network or the decomposed one, gives the wanted classes (Hinton et al. 2015, arXiv 1503.02531, without a
temperature), over weights on the same places. It is convex; L-BFGS starts from the weights given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

BATCH = 25  #: images that run at a time
_TRIED = 100  # images, at most, on which averages are compared
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the way from the old averages to the new ones
# towards the start, for the mean square in units of the features' spread
_PULLS = (100.0, 10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)
_STEPS = 200


def readjust(model: nn.Module, head: str, pixels: Tensor, wanted: Tensor) -> None:
    """Move batch norm's averages towards those on some images, as far as that helps; scale and shift the logits.

    Args:
        model: the network, in place.
        head: name of its head, a linear layer.
        pixels: (n, …) images.
        wanted: (n, c) logits that the network is to say.
    """
    if norms := _norms(model):
        _move_averages(model, norms, pixels, wanted)
    scale, shift = calibration(said_of(model, pixels), wanted)
    layer = cast(nn.Linear, model.get_submodule(head))
    layer.weight.data.mul_(scale)
    layer.bias.data.mul_(scale).add_(shift)


def _move_averages(model: nn.Module, norms: Sequence[_BatchNorm], pixels: Tensor, wanted: Tensor) -> None:
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
            said = calibrated(said_of(model, pixels[:_TRIED]), wanted[:_TRIED])
            apart = float(F.kl_div(F.log_softmax(said, dim=1), goal, log_target=True, reduction="batchmean"))
            best = min(best, (apart, share))
        move(best[1])


def batch_norm_anew(model: nn.Module, pixels: Tensor) -> None:
    """Learn the averages of every batch norm anew on images; all batches count alike, but for one of a single image."""
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


def said_of(model: nn.Module, pixels: Tensor) -> Tensor:
    """Return what a network says of images, (n, c)."""
    with torch.no_grad():
        return torch.cat([vectors(model(part)) for part in torch.split(pixels, BATCH)])


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


def refit(
    weight: Tensor, bias: Tensor, features: Tensor, wanted: Tensor, pull: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a head that says on some features what is wanted of it, zero where it is zero.

    Args:
        weight: (c, d) to start with.
        bias: (c,).
        features: (n, d), in random order.
        wanted: (n, c) logits of the teacher.
        pull: towards the start; unless given, of several that with which each half of the images is met best by the other's.
    """
    if len(bias) < 2:
        return weight, bias
    x, goal = features.double(), F.log_softmax(wanted.double(), dim=1)
    start = weight.double(), bias.double()
    if pull is None:
        halves = slice(0, None, 2), slice(1, None, 2)

        def missed(pull: float) -> float:
            heads = [_refit(*start, x[half], goal[half], pull) for half in halves]
            return sum(
                float(_apart(x[half], goal[half], *head)) for half, head in zip(halves[::-1], heads, strict=True)
            )

        pull = min(_PULLS, key=missed) if len(x) >= 4 else max(_PULLS)
    rows, shift = _refit(*start, x, goal, pull)
    return rows.to(weight.dtype), shift.to(bias.dtype)


def _refit(weight: Tensor, bias: Tensor, x: Tensor, goal: Tensor, pull: float) -> tuple[Tensor, Tensor]:
    places = weight != 0
    scale = x.std(dim=0, correction=0).clamp_min(1e-12)
    start = torch.cat([weight[places], bias])
    units = torch.cat([scale.expand_as(weight)[places], torch.ones_like(bias)])
    moved = torch.zeros_like(start, requires_grad=True)  # in units of the features' spread
    steps = torch.optim.LBFGS([moved], max_iter=_STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-8)

    def head() -> tuple[Tensor, Tensor]:
        values = start + moved / units
        rows = torch.zeros_like(weight).index_put((places,), values[: -len(bias)])
        return rows, values[-len(bias) :]

    def loss() -> Tensor:
        steps.zero_grad()
        value = _apart(x, goal, *head()) + pull * moved.square().mean()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        steps.step(loss)  # type: ignore[no-untyped-call]
    rows, shift = head()
    return rows.detach(), shift.detach()


def _apart(x: Tensor, goal: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the mean divergence of what a head says of features (n, d) from log-probabilities (n, c)."""
    return F.kl_div(F.log_softmax(x @ weight.T + bias, dim=1), goal, log_target=True, reduction="batchmean")


def calibrated(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return logits, (n, c) float64, scaled and shifted so that they say as nearly as can be what is wanted of them, (n, c)."""
    scale, shift = calibration(logits, wanted)
    return scale * logits.detach().double() + shift


def calibration(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return one scale, (1,), and a shift of each class, (c,), with which logits say as nearly as can be what is wanted.

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
    return scale.detach(), shift.detach()


def features_of(model: nn.Module, head: str, parts: Sequence[Tensor]) -> Tensor:
    """Return what the head of a network reads of some images, (n, d); of maps the mean over places."""
    with reading(model, head) as kept, torch.no_grad():
        for part in parts:
            model(part)
    return torch.cat(kept)


@contextmanager
def reading(model: nn.Module, head: str) -> Iterator[list[Tensor]]:
    """While the block runs, keep what the head of a network reads, batch by batch, (n, d); of maps the mean over places."""
    kept: list[Tensor] = []
    handle = model.get_submodule(head).register_forward_pre_hook(lambda _, args: kept.append(vectors(args[0])))
    try:
        yield kept
    finally:
        handle.remove()
