"""The decomposed head against a loop over classes and against a masked dense layer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skips import NO_CUDA
from subspect import DecomposedHead, Supports
from subspect.heads.head import _BLOCK, _BLOCKED, Kernel

D = 5


class Parts(NamedTuple):
    supports: Supports
    weights: Tensor
    bias: Tensor

    def head(self, kernel: Kernel = "auto", *, convolution: bool = False) -> DecomposedHead:
        head = DecomposedHead(self.supports, self.weights, self.bias, convolution=convolution)
        head.kernel = kernel
        return head


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
kernels: st.SearchStrategy[Kernel] = st.sampled_from(["auto", "dense", "embedding_bag", "csr"])
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


@settings(deadline=None)
@given(parts, shapes, kernels, st.booleans())
def test_logits_are_those_of_a_loop_over_classes(
    parts: Parts, shape: tuple[int, ...], kernel: Kernel, learns: bool
) -> None:
    x = random(*shape, D)
    with torch.set_grad_enabled(learns):
        logits = parts.head(kernel)(x)
    assert logits.is_contiguous() and logits.shape == (*shape, len(parts.supports))
    expected = [loop(parts, row) for row in x.reshape(-1, D).tolist()]
    torch.testing.assert_close(logits.detach().reshape(len(expected), len(parts.supports)).tolist(), expected)


@settings(deadline=None)
@given(parts, st.integers(0, 4), kernels)
def test_gradients_are_those_of_a_masked_dense_layer(parts: Parts, n: int, kernel: Kernel) -> None:
    head, (linear, mask) = parts.head(kernel), masked(parts)
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


@settings(deadline=None)
@given(parts, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), kernels)
def test_convolution_is_the_head_at_every_place(parts: Parts, n: int, height: int, width: int, kernel: Kernel) -> None:
    x = random(n, D, height, width)
    logits = parts.head(kernel, convolution=True)(x)
    assert logits.is_contiguous() and logits.shape == (n, len(parts.supports), height, width)
    for image in range(n):
        for row in range(height):
            for column in range(width):
                expected = loop(parts, x[image, :, row, column].tolist())
                torch.testing.assert_close(logits[image, :, row, column].tolist(), expected)


@given(parts)
def test_state_goes_round(parts: Parts) -> None:
    head = parts.head()
    state = head.state_dict()
    assert set(state) == {"weights", "bias", "indices", "offsets"}
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
    assert (head.indices.dtype, head.offsets.dtype) == (torch.int32, torch.int32)
    expected = [loop(parts, row) for row in random(3, D).tolist()]
    each: tuple[Kernel, ...] = ("dense", "embedding_bag")
    for kernel in each:
        head.kernel = kernel
        logits = head(random(3, D).to(dtype))
        assert logits.dtype == dtype
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


# The kernels ----------------------------------------------------------------------------------------------------------


def large(classes: int, d: int, k: int, dtype: torch.dtype = torch.float32) -> DecomposedHead:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randperm(d, generator=generator)[:k].tolist() for _ in range(classes)]
    weights, bias = torch.randn(classes * k, generator=generator), torch.randn(classes, generator=generator)
    return DecomposedHead(Supports(rows, d), weights, bias).to(dtype)


@pytest.mark.parametrize(
    ("classes", "d", "k", "images", "kernel"),
    [
        (10, 2048, 50, 1, "dense"),
        (10, 2048, 5, 256, "dense"),
        (10, 64, 5, 32, "dense"),
        (100, 2048, 50, 1, "csr"),
        (100, 2048, 50, 32, "embedding_bag"),
        (1000, 2048, 50, 1, "csr"),
        (1000, 2048, 50, 256, "embedding_bag"),
        (1000, 2048, 2048, 1, "dense"),
        (1000, 2048, 2048, 256, "dense"),
        (1000, 2048, 50, 0, "dense"),
    ],
)
def test_the_cheapest_kernel_is_taken(
    classes: int, d: int, k: int, images: int, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subspect.heads.head._CSR", True)  # as where PyTorch has MKL
    head = large(classes, d, k).requires_grad_(False)
    assert head.kernel_for(images) == kernel
    assert head.kernel_for(images, learns=True) != "csr"
    assert head.to("meta").kernel_for(images) == "dense"


def test_large_batches_go_in_blocks() -> None:
    head, x = large(1000, 60, 40), torch.randn(150, 60, requires_grad=True)
    head.kernel = "embedding_bag"
    assert head.multiplications >= _BLOCKED and len(x) > 2 * _BLOCK
    expected = x @ head.dense_weight().T + head.bias
    torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-5)
    [one] = torch.autograd.grad(head(x).cos().sum(), head.weights)
    [other] = torch.autograd.grad(expected.cos().sum(), head.weights)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_dense_products_are_cheaper_in_half_precision() -> None:
    assert large(60, 2048, 50).kernel_for(32) == "embedding_bag"
    assert large(60, 2048, 50, torch.bfloat16).kernel_for(32) == "dense"
    assert large(1000, 2048, 50, torch.bfloat16).kernel_for(32) == "embedding_bag"
    assert large(1000, 2048, 50, torch.bfloat16).kernel_for(1) != "csr"


@pytest.mark.parametrize("kernel", ["dense", "csr", "embedding_bag"])
def test_what_was_prepared_follows_the_weights(kernel: Kernel) -> None:
    head, x = large(40, 30, 5), torch.randn(1, 30)
    head.kernel = kernel
    head.eval().requires_grad_(False)

    def right() -> bool:
        return torch.allclose(head(x), x @ head.dense_weight().T + head.bias, atol=1e-5)

    assert right()
    head.weights.mul_(2)
    assert right()
    head.load_state_dict(large(40, 30, 5).state_dict())
    assert right()
    with torch.inference_mode():
        assert right()
        other = copy.deepcopy(head)
        other.weights.mul_(3)
        assert right() and not torch.allclose(other(x), head(x))
    head, x = head.double(), x.double()
    assert right()
    head.requires_grad_(True)
    (head(x) ** 2).sum().backward()
    assert head.weights.grad is not None
    with torch.no_grad():
        head.weights.sub_(0.1 * head.weights.grad)
    assert right()
    with torch.no_grad():
        assert right()
    head.weights.data = head.weights.data * 5
    head.eval()  # drops what was prepared
    with torch.no_grad():
        assert right()


def test_what_was_prepared_stays_out_of_copies_and_files(tmp_path: Path) -> None:
    head = large(40, 30, 5).requires_grad_(False)
    head(torch.randn(2, 30))
    assert head._kept and not copy.deepcopy(head)._kept
    torch.save(head, tmp_path / "head.pt")
    loaded = torch.load(tmp_path / "head.pt", weights_only=False)
    assert not loaded._kept and torch.equal(loaded(torch.ones(2, 30)), head(torch.ones(2, 30)))


def test_gradients_reach_features_where_the_weights_are_frozen() -> None:
    head = large(300, 512, 5).requires_grad_(False)
    for images in (1, 4):
        x = torch.randn(images, 512, requires_grad=True)
        with torch.inference_mode():
            head(x)  # what is prepared here must serve there
        head(x).square().sum().backward()
        dense = x.detach() @ head.dense_weight().T + head.bias
        torch.testing.assert_close(x.grad, 2 * dense @ head.dense_weight(), rtol=1e-4, atol=1e-4)


@given(parts, shapes)
def test_the_score_of_one_class(parts: Parts, shape: tuple[int, ...]) -> None:
    head, x = parts.head(), random(*shape, D)
    logits = head(x)
    for label in range(len(parts.supports)):
        torch.testing.assert_close(head.score(x, label), logits[..., label])
    with pytest.raises(IndexError, match=f"class {len(parts.supports)} of {len(parts.supports)}"):
        head.score(x, len(parts.supports))
    with pytest.raises(ValueError, match=f"expected {D} features, got {D + 1}"):
        head.score(random(2, D + 1), 0)


def test_multiplications_are_counted() -> None:
    assert large(40, 30, 5).multiplications == 200 and make([[0], [], [1, 2]]).head().multiplications == 3


@pytest.mark.parametrize("kernel", ["dense", "embedding_bag", "csr"])
@pytest.mark.parametrize("images", [1, 7])
def test_under_autocast_the_type_is_that_of_a_linear_layer(kernel: Kernel, images: int) -> None:
    head, x = large(40, 30, 5).requires_grad_(False), torch.randn(images, 30)
    head.kernel = kernel
    with torch.autocast("cpu", torch.bfloat16):
        logits, like = head(x), nn.Linear(30, 40)(x)
        again = head(x.bfloat16())
    assert logits.dtype == again.dtype == like.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), head(x), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("classes", [4, 300])
def test_compiled_it_says_the_same(classes: int) -> None:
    head = large(classes, 64, 5)
    assert head.kernel_for(64) == ("dense" if classes == 4 else "embedding_bag")
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager", dynamic=True)
    for images in (2, 5):
        x, same = (torch.randn(images, 64, generator=torch.Generator().manual_seed(1)) for _ in range(2))
        logits, expected = compiled(x.requires_grad_()), head(same.requires_grad_())
        torch.testing.assert_close(logits, expected)
        logits.cos().sum().backward()
        kept = head.weights.grad
        head.weights.grad = None
        expected.cos().sum().backward()
        torch.testing.assert_close(kept, head.weights.grad)
        torch.testing.assert_close(x.grad, same.grad)
        head.weights.grad = None


@pytest.mark.parametrize("classes", [4, 300])
def test_exported_it_takes_any_batch(classes: int) -> None:
    head = large(classes, 64, 5).eval().requires_grad_(False)
    program = torch.export.export(head, (torch.randn(3, 64),), dynamic_shapes=({0: torch.export.Dim("n")},))
    for images in (1, 3, 8):
        x = torch.randn(images, 64)
        torch.testing.assert_close(program.module()(x), head(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_CUDA)
@pytest.mark.parametrize("classes", [10, 1000])
def test_on_a_gpu_the_dense_kernel_says_the_same(classes: int) -> None:
    supports = Supports([[label % 64, (label + 7) % 64] for label in range(classes)], 64)
    head, x = DecomposedHead(supports, torch.randn(2 * classes), torch.randn(classes)), torch.randn(32, 64)
    expected = head(x)
    head = head.cuda()
    assert head.kernel_for(1) == head.kernel_for(32) == "dense"
    torch.testing.assert_close(head(x.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(head.score(x.cuda(), 3).cpu(), expected[:, 3], rtol=1e-3, atol=1e-3)


def test_state_of_other_class_sizes_is_taken_where_the_total_is_the_same() -> None:
    head, other = make([[0, 1], [2], []]).head(), make([[4], [3, 0], []], seed=1).head()
    x = random(3, D)
    with torch.no_grad():
        head(x)  # what is prepared for the old supports is dropped
    head.load_state_dict(other.state_dict())
    assert head.rows.tolist() == [0, 1, 1]
    assert torch.equal(head.dense_weight(), other.dense_weight())
    with torch.no_grad():
        assert torch.equal(head(x), other(x))


def test_what_was_prepared_follows_supports_that_come_without_weights() -> None:
    head, other = make([[0, 1], [2]]).head("dense"), make([[4], [3, 0]]).head()
    x = random(3, D)
    with torch.no_grad():
        before = head(x)
        head.load_state_dict({name: other.state_dict()[name] for name in ("indices", "offsets")}, strict=False)
        assert not torch.equal(head(x), before)
        torch.testing.assert_close(head(x), x @ head.dense_weight().T + head.bias)
