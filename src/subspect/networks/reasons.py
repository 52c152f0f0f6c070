"""Why no head was found, in words: what the network does with the linear layers that come nearest to its logits.

Each layer with as many outputs as there are classes is followed by what networks are known to do after it, alone or added to
another layer; what gives the logits is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from torch import Tensor

from subspect.ground.errors import some
from subspect.networks.calls import Seen, same
from subspect.networks.summands import is_convolution
from subspect.networks.sums import factors_of

_MOST = 12  # layers and what follows them that are tried in pairs


def not_found(seen: Sequence[Seen], tensors: Mapping[int, Tensor], why: str = "") -> str:
    """Say that none of the linear layers that ran makes the first of some tensors, and why: as is seen here, or as is given."""
    logits, *others = tensors.values()
    also = [one.name for other in others for one in seen if same(one.output, other)]
    return (
        f"head not found: the logits {tuple(logits.shape)} are not the output of any nn.Linear or 1×1 convolution (by its "
        f"mean over positions, the first or the last), nor a sum of some{reason(seen, logits) or why}"
        + (f"; other tensors that the network returns are the output of {some(dict.fromkeys(also))}" if also else "")
        + "; pass head='module.name' (--head) to take a layer's own output for the logits; "
        + candidates(seen, logits)
    )


def candidates(seen: Sequence[Seen], logits: Tensor) -> str:
    """List the layers with as many outputs as there are logits, those that ran last first; else all with their outputs."""
    alike = [one.name for one in reversed(seen) if one.output.shape == logits.shape]
    if alike:
        return f"candidates: {some(alike, 8)}"
    others = some([f"{one.name} with {one.output.shape[-1]}" for one in reversed(seen)], 8)
    return f"candidates: none with {logits.shape[1]} outputs (linear layers that ran: {others or 'none'})"


def reason(seen: Sequence[Seen], logits: Tensor) -> str:
    """Say what the network does between layers of the right shape and its logits, if that is easily seen."""
    alike = [one for one in reversed(seen) if one.output.shape == logits.shape]
    for one in alike:
        for words, result in _after(one):
            if same(result, logits):
                return f": the network {words}"
    plain = [(repr(one.name), one.at(position)) for one in alike for position in one.positions]
    bent = [(words, result) for one in alike for words, result in _after(one) if one.result.ndim > 2]
    for first, second in combinations([*plain, *bent][:_MOST], 2):
        factors = factors_of([first[1], second[1]], logits) if second in bent else None
        if factors is not None:
            added = [words.removeprefix("takes ") for words in (first[0], second[0])]
            return f": the network adds up {factors[0]:.3g} of {added[0]} and {factors[1]:.3g} of {added[1]}"
    return ""


def _after(one: Seen) -> Iterator[tuple[str, Tensor]]:
    """List what may follow a layer, as words and the result (n, C)."""
    if one.result.ndim > 2:
        places = one.result.flatten(2) if is_convolution(one.module) else one.result.flatten(1, -2).mT
        yield f"takes the maximum over the positions of {one.name!r}", places.amax(2)
        yield f"applies a ReLU at every position of {one.name!r} before it takes the mean", places.relu().mean(2)
    yield f"applies a softmax after {one.name!r}", one.output.softmax(1)
    yield f"applies a log-softmax after {one.name!r}", one.output.log_softmax(1)
    yield f"applies a sigmoid after {one.name!r}", one.output.sigmoid()
    yield f"applies a ReLU after {one.name!r}", one.output.relu()
    yield f"applies a tanh after {one.name!r}", one.output.tanh()
