"""The decomposed head against a loop over classes and against a masked dense layer."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from subspect import DecomposedHead, Supports

D = 5


class Parts(NamedTuple):
    supports: Supports
    weights: Tensor
    bias: Tensor

    def head(self, *, convolution: bool = False) -> DecomposedHead:
        return DecomposedHead(self.supports, self.weights, self.bias, convolution=convolution)


def make(table: list[list[int]], seed: int = 0) -> Parts:
    generator = torch.Generator().manual_seed(seed)
    supports = Supports(table, D)
    weights = torch.randn(len(supports.flat), generator=generator, dtype=torch.float64)
    return Parts(supports, weights, torch.randn(len(table), generator=generator, dtype=torch.float64))


# classes of any size, none and all of the features among them; weights in float64, so that a loop gives the same
parts = st.builds(
    make,
    st.lists(st.lists(st.integers(0, D - 1), unique=True, max_size=D), min_size=1, max_size=4),
    st.integers(0, 2**31),
)
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)


def loop(parts: Parts, x: list[float]) -> list[float]:
    """``Σ_{i in S_c} w[c, i] · x[i] + b[c]``, class by class."""
    logits, weights = [], iter(parts.weights.tolist())
    for support, bias in zip(parts.supports, parts.bias.tolist(), strict=True):
        logit = bias
        for index in support.tolist():
            logit += next(weights) * x[index]
        logits.append(logit)
    return logits


def masked(parts: Parts) -> tuple[nn.Linear, Tensor]:
    """A dense layer and the mask of the weights that it keeps."""
    linear, mask = nn.Linear(D, len(parts.supports), dtype=torch.float64), torch.zeros(len(parts.supports), D)
    weights = iter(parts.weights.tolist())
    with torch.no_grad():
        linear.bias.copy_(parts.bias)
        for label, support in enumerate(parts.supports):
            for index in support.tolist():
                linear.weight[label, index], mask[label, index] = next(weights), 1
    return linear, mask


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@given(parts, shapes)
def test_logits_are_those_of_a_loop_over_classes(parts: Parts, shape: tuple[int, ...]) -> None:
    x = random(*shape, D)
    logits = parts.head()(x)
    assert logits.shape == (*shape, len(parts.supports))
    expected = [loop(parts, row) for row in x.reshape(-1, D).tolist()]
    torch.testing.assert_close(logits.detach().reshape(len(expected), len(parts.supports)).tolist(), expected)


@settings(deadline=None)
@given(parts, st.integers(0, 4))
def test_gradients_are_those_of_a_masked_dense_layer(parts: Parts, n: int) -> None:
    head, (linear, mask) = parts.head(), masked(parts)
    x, same = random(n, D).requires_grad_(), random(n, D).requires_grad_()
    upstream = random(n, len(parts.supports)).cos()
    logits = head(x)
    expected = nn.functional.linear(same, linear.weight * mask, linear.bias)
    torch.testing.assert_close(logits, expected)
    torch.autograd.backward(logits, upstream)
    torch.autograd.backward(expected, upstream)
    assert linear.weight.grad is not None
    kept = [linear.weight.grad[c, i] for c, support in enumerate(parts.supports) for i in support.tolist()]
    assert head.weights.grad is not None
    torch.testing.assert_close(head.weights.grad.tolist(), [float(gradient) for gradient in kept])
    torch.testing.assert_close(head.bias.grad, linear.bias.grad)
    torch.testing.assert_close(x.grad, same.grad)


@given(parts)
def test_dense_weight_has_the_weights_at_their_places_and_zeros_elsewhere(parts: Parts) -> None:
    linear, mask = masked(parts)
    dense = parts.head().dense_weight()
    assert torch.equal(dense, linear.weight * mask)
    assert dense.requires_grad


@given(parts, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_convolution_is_the_head_at_every_place(parts: Parts, n: int, height: int, width: int) -> None:
    x = random(n, D, height, width)
    logits = parts.head(convolution=True)(x)
    assert logits.shape == (n, len(parts.supports), height, width)
    for image in range(n):
        for row in range(height):
            for column in range(width):
                expected = loop(parts, x[image, :, row, column].tolist())
                torch.testing.assert_close(logits[image, :, row, column].tolist(), expected)


@given(parts)
def test_state_goes_round(parts: Parts) -> None:
    head = parts.head()
    state = head.state_dict()
    assert set(state) == {"weights", "bias", "indices", "rows"}
    order = [row.tolist()[::-1] for row in parts.supports]
    other = DecomposedHead(Supports(order, D), torch.zeros_like(parts.weights), torch.zeros_like(parts.bias))
    other.load_state_dict(state)
    assert torch.equal(other.dense_weight(), head.dense_weight())
    assert torch.equal(other(random(3, D)), head(random(3, D)))


def test_state_of_other_sizes_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for weights"):
        make([[0, 1], [2]]).head().load_state_dict(make([[0], [2]]).head().state_dict())


def test_what_it_was_made_of_is_copied() -> None:
    parts, other = make([[0, 1], [2]]), make([[4, 3], [0]], seed=1)
    head, weights, bias = parts.head(), parts.weights.clone(), parts.bias.clone()
    head.load_state_dict(other.head().state_dict())
    assert [row.tolist() for row in parts.supports] == [[0, 1], [2]]
    with torch.no_grad():
        head.weights.zero_()
        head.bias.zero_()
    assert torch.equal(parts.weights, weights)
    assert torch.equal(parts.bias, bias)


def test_parameters_learn_and_zeros_stay_zeros() -> None:
    parts = make([[0, 1], [2], []])
    head = DecomposedHead(parts.supports, parts.weights.requires_grad_(), parts.bias)
    assert {name: parameter.requires_grad for name, parameter in head.named_parameters()} == {
        "weights": True,
        "bias": True,
    }
    before = copy.deepcopy(head)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    head(random(8, D)).square().sum().backward()
    optimiser.step()
    assert (head.weights != before.weights).all()
    assert (head.bias != before.bias).all()
    assert torch.equal(head.dense_weight() == 0, before.dense_weight() == 0)
    assert parts.weights.grad is None  # they were no part of the head


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_precisions_keep_the_indices(dtype: torch.dtype) -> None:
    parts = make([[4, 1], [0]])
    head = parts.head().to(dtype)
    assert (head.indices.dtype, head.rows.dtype) == (torch.int64, torch.int64)
    logits = head(random(3, D).to(dtype))
    assert logits.dtype == dtype
    expected = [loop(parts, row) for row in random(3, D).tolist()]
    torch.testing.assert_close(logits.double(), torch.tensor(expected).double(), rtol=0.05, atol=0.05)


def test_stands_in_for_a_linear_layer() -> None:
    head = make([[4, 1], [0], [2]]).head()
    linear = nn.Linear(D, 3)
    assert (head.in_features, head.out_features) == (linear.in_features, linear.out_features)
    x = random(2, D)
    assert torch.equal(head(input=x), head(x))
    assert head.bias.shape == linear.bias.shape


def test_repr() -> None:
    assert repr(make([[4, 1], [0], []]).head()) == "DecomposedHead(in_features=5, out_features=3, weights=3)"
