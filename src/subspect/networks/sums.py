"""Logits that are a sum of linear layers, each with a factor: heads that are averaged, a temperature.

The factors are found by least squares on some images and their moved copies, the fewest layers first, and hold only if they do
on other images as well: what a few numbers fit by chance is no head.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from subspect.images.inputs import Pixels
from subspect.networks.calls import Seen, logits_among, same, watch
from subspect.networks.summands import Groups, Position, Summand, at_position, is_convolution, written

log = logging.getLogger("subspect")
_MOST, _TERMS = 6, 12  # layers that a head may be the sum of, and among how many they are looked for; or all of these
_LEAST = 1e-6  # of the largest factor: a smaller one is rounding
_MOVED = 4  # copies of the images, each moved by a pixel more, from which factors are taken


def sum_of_layers(
    model: nn.Module, pixels: Pixels, watched: dict[str, nn.Module], seen: list[Seen], logits: Tensor
) -> Groups:
    """Find factors by which some layers' outputs add up to the logits, the fewest layers first; nothing if there are none.

    The factors are taken from some images and their moved copies, and must hold on others.
    """
    other = None
    if isinstance(pixels, Tensor) and pixels.is_floating_point():
        more = torch.cat([pixels, *(pixels.roll(step, -1) for step in range(1, _MOVED))])
        seen, outputs = watch(model, more, watched)
        logits, other = next(iter(logits_among(outputs, len(more)).values())), pixels.flip(-1)
    terms = [
        (one, position)
        for one in reversed(seen)
        for position in one.positions
        if one.at(position).shape == logits.shape and bool(one.result.isfinite().all())
    ][:_TERMS]
    for count in (*range(1, min(len(terms), _MOST) + 1), *([len(terms)] if len(terms) > _MOST else [])):
        for chosen in combinations(terms, count):
            factors = factors_of([one.at(position) for one, position in chosen], logits)
            if factors is None:
                continue
            parts = [(*one, factor) for one, factor in zip(chosen, factors, strict=True)]
            groups = _grouped(parts)
            if other is None or _holds(model, groups, other, watched):
                log.info("the head is a sum of layers: %s", written(groups))
                return groups
    return ()


def factors_of(outputs: Sequence[Tensor], logits: Tensor) -> list[float] | None:
    """Return factors of outputs (n, C) whose sum is the logits; None where there are none, or too few numbers to tell."""
    columns = torch.stack([one.double().flatten() for one in outputs], dim=1).cpu()
    target = logits.double().flatten().cpu()
    if len(target) < 2 * len(outputs) + 1:
        return None
    factors = torch.linalg.lstsq(columns, target[:, None]).solution[:, 0]
    total = (columns @ factors).reshape(logits.shape)
    if (
        not bool(factors.isfinite().all())
        or not same(total.to(logits.dtype), logits.cpu())
        or bool((factors.abs() <= _LEAST * factors.abs().max()).any())
    ):
        return None
    rounded = [round(float(one), 4) for one in factors]
    near_whole = torch.tensor(rounded, dtype=torch.float64)
    if bool(((near_whole - factors).abs() <= 1e-6).all()) and all(rounded):
        return rounded
    return [float(one) for one in factors]


def _grouped(terms: Sequence[tuple[Seen, Position, float]]) -> Groups:
    """Put layers on one input together."""
    groups: list[tuple[Tensor, list[Summand]]] = []
    for one, position, factor in reversed(terms):
        own = at_position(one.input, is_convolution(one.module), position)
        part = Summand(one.name, factor, position)
        known = next(
            (parts for features, parts in groups if features.shape == own.shape and torch.equal(features, own)), None
        )
        if known is None:
            groups.append((own, [part]))
        else:
            known.append(part)
    return tuple(tuple(parts) for _, parts in groups)


def _holds(model: nn.Module, groups: Groups, pixels: Tensor, watched: dict[str, nn.Module]) -> bool:
    """Tell whether a sum of layers gives the logits of other images as well."""
    seen, outputs = watch(model, pixels, watched)
    logits = next(iter(logits_among(outputs, len(pixels)).values()))
    calls = {one.name: one for one in seen}
    total = sum(part.factor * calls[part.name].at(part.position).double() for group in groups for part in group)
    return same(torch.as_tensor(total).to(logits.dtype), logits)
