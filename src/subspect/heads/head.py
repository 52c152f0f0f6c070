"""The layer that computes logits from supports and weights, fast: ``logits[c] = Σ_{i in S_c} w[c, i] · x[i] + b[c]``.

Few multiplications are not little time: a dense matrix product does twenty multiplications in the time of one that first looks
up its place. Three kernels give the same logits, and the cheapest for the shape at hand is taken:

- ``embedding_bag``: for batches on a CPU. Features as columns, ``xᵀ`` (d, n), so that each entry of the supports adds a whole
  contiguous column of n numbers to its class.
- ``csr``: for a single image on a CPU, a sparse matrix (CSR) times a vector.
- ``dense``: the weights at their places among zeros. For few classes, and on other devices, where no other was measured.

Which is cheapest is told by `DecomposedHead.kernel_for`, from what single multiplications cost (``benchmarks/head.py``).
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subspect.heads.supports import Supports

Kernel = Literal["auto", "dense", "embedding_bag", "csr"]

# Costs in units of one multiplication of a dense float32 product, 0.024 ns on one core of an AMD EPYC.
_ROUND = 300_000  # what embedding_bag takes besides, whatever the size
_COLUMN = 20  # to bring one feature of one image in place
_ENTRY = 33  # to look up one entry of the supports
_TERM = 1.25  # to multiply and add it, for one image
_CSR_ROUND, _CSR_ENTRY = 45_000, 9  # the same of CSR for a single image, where a dense product takes twice as long
_CSR = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]  # PyTorch without MKL has no such product
MANY = 64  #: images for which a graph that is compiled or exported takes its kernel
_BLOCK, _BLOCKED = 64, 32_768  # images whose columns stay in a core's cache; entries from which that pays
_HALVES = (torch.bfloat16, torch.float16)
_FASTER = 5  # how much faster dense products are in bfloat16


def convolved(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the 1×1 convolution of maps in one, two or three dimensions: (n, d, …), (C, d) and (C,) → (n, C, …)."""
    convolve = (F.conv1d, F.conv2d, F.conv3d)[input.ndim - 3]
    return convolve(input, weight.reshape(*weight.shape, *(1,) * (input.ndim - 2)), bias)


class DecomposedHead(nn.Module):
    """A linear layer in which every class sees only its own features; shapes in and out are the dense head's.

    What the kernels prepare from the weights is kept while nothing learns, and made again after ``train()``, ``to()``,
    ``load_state_dict()`` and in-place changes of the weights; not after changes by ``weights.data``.

    Args:
        supports: the features of every class.
        weights: (nnz,) the weight of each entry of ``supports.flat``.
        bias: (C,).
        convolution: whether the head stands for a 1×1 convolution: (n, d, …) → (n, C, …), of one to three dimensions.

    Attributes:
        kernel: how logits are computed; "auto" takes the cheapest.

    Example:
        >>> layer = decomposition.layer()
        >>> layer(torch.rand(2, 256)).shape
        torch.Size([2, 4])
    """

    indices: Tensor
    offsets: Tensor
    rows: Tensor

    def __init__(self, supports: Supports, weights: Tensor, bias: Tensor, *, convolution: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features, self.convolution = supports.n_features, len(supports), convolution
        self.kernel: Kernel = "auto"
        self.weights = nn.Parameter(weights.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.register_buffer("indices", torch.tensor(supports.flat, dtype=torch.int32))
        self.register_buffer("offsets", torch.tensor(supports.offsets, dtype=torch.int32))
        self.register_buffer("rows", torch.tensor(supports.rows, dtype=torch.int32), persistent=False)
        self._entries, self._cells = len(supports.flat), len(supports) * supports.n_features
        self._kept: dict[str, tuple[tuple[int, int], Tensor]] = {}

    def dense_weight(self) -> Tensor:
        """Return (C, d): the weights at their places and zeros elsewhere; differentiable."""
        empty = self.weights.new_zeros(self.out_features, self.in_features)
        return empty.index_put((self.rows.long(), self.indices.long()), self.weights)

    def kernel_for(self, images: int, *, learns: bool = False) -> Kernel:
        """Return the kernel that is taken for a number of images (or of places in them).

        A graph that is compiled or exported serves any number, and takes the kernel for many.

        Args:
            images: rows of features.
            learns: whether gradients are wanted; not from CSR.
        """
        return self._kernel_for(images, self.weights, learns)

    def _kernel_for(self, images: int, weights: Tensor, learns: bool) -> Kernel:
        if self.kernel != "auto":
            return self.kernel
        if not weights.is_cpu:
            return "dense"
        half = weights.dtype in _HALVES
        if torch.compiler.is_compiling():
            images = MANY
        if images == 1 and _CSR and not learns and not half:
            return "csr" if _CSR_ROUND + _CSR_ENTRY * self._entries < self._cells else "dense"
        sparse = _ROUND + self._entries * (_ENTRY + _TERM * images) + _COLUMN * self.in_features * images
        return "embedding_bag" if sparse * (_FASTER if half else 1) < self._cells * images else "dense"

    def forward(self, input: Tensor) -> Tensor:
        """Return the logits: (n, …, d) → (n, …, C), or (n, d, …) → (n, C, …) for a convolution."""
        weights, bias = self.weights, self.bias
        grad = torch.is_grad_enabled()
        learns = grad and (input.requires_grad or weights.requires_grad)
        kernel = self._kernel_for(input.numel() // self.in_features, weights, learns)
        if kernel == "dense":
            weight = self._prepared(kernel, weights, grad)
            if self.convolution:
                return convolved(input, weight, bias)
            return F.linear(input, weight, bias)
        rows = input.movedim(1, -1) if self.convolution else input
        places, rows = rows.shape[:-1], rows.reshape(-1, self.in_features)
        halved = torch.is_autocast_enabled(input.device.type)
        with torch.autocast(input.device.type, enabled=False) if halved else nullcontext():
            logits = self._sparse(kernel, rows.to(weights.dtype) if halved else rows, weights, grad)
            logits += bias  # in place: with many classes they are large
        logits = logits.to(torch.get_autocast_dtype(input.device.type)) if halved else logits
        logits = logits.reshape(*places, self.out_features)
        return logits.movedim(-1, 1).contiguous() if self.convolution else logits

    def score(self, input: Tensor, label: int) -> Tensor:
        """Return the logit of one class, (n, …, d) → (n, …), by as many multiplications as it has features.

        Raises:
            IndexError: there is no such class.
            ValueError: features of another number.
        """
        if input.shape[-1] != self.in_features:
            raise ValueError(f"expected {self.in_features} features, got {input.shape[-1]}")
        if not 0 <= label < self.out_features:
            raise IndexError(f"class {label} of {self.out_features}")
        part = slice(*self.offsets[label : label + 2].tolist())
        return input[..., self.indices[part].long()] @ self.weights[part] + self.bias[label]

    @property
    def multiplications(self) -> int:
        """Multiplications of one image's logits; the dense kernel does ``in_features · out_features``."""
        return self._entries

    def _sparse(self, kernel: Kernel, rows: Tensor, weights: Tensor, grad: bool) -> Tensor:
        """Return the logits (n, C), less the bias, of rows of features (n, d)."""
        if kernel == "csr":
            matrix = self._prepared(kernel, weights, grad)
            return (matrix @ rows[0])[None] if len(rows) == 1 else (matrix @ rows.t()).t().contiguous()
        if torch.compiler.is_compiling() or self._entries < _BLOCKED or len(rows) <= _BLOCK:
            return self._bags(rows, weights).contiguous()
        logits = rows.new_empty(len(rows), self.out_features)
        for start in range(0, len(rows), _BLOCK):
            logits[start : start + _BLOCK] = self._bags(rows[start : start + _BLOCK], weights)
        return logits

    def _bags(self, rows: Tensor, weights: Tensor) -> Tensor:
        return F.embedding_bag(
            self.indices,
            rows.t().contiguous(),
            self.offsets,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        ).t()

    def _prepared(self, kernel: Kernel, weights: Tensor, grad: bool) -> Tensor:
        """Return the matrix that a kernel works with, the one kept if it still holds."""
        if torch.compiler.is_compiling() or (grad and weights.requires_grad):
            return self.dense_weight()
        if weights.is_inference():  # has no version
            return self._matrix(kernel)
        key = weights._version, weights.data_ptr()
        kept = self._kept.get(kernel)
        if kept is None or kept[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                kept = self._kept[kernel] = key, self._matrix(kernel)
        return kept[1]

    def _matrix(self, kernel: Kernel) -> Tensor:
        if kernel == "dense":
            return self.dense_weight()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            order = torch.argsort(self.rows.long() * self.in_features + self.indices)
            size = (self.out_features, self.in_features)
            entries = self.indices[order], self.weights.detach()[order]
            return torch.sparse_csr_tensor(self.offsets, *entries, size, check_invariants=True)

    def train(self, mode: bool = True) -> DecomposedHead:
        """Set the mode, and drop what was prepared."""
        self._kept.clear()
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._kept.clear()
        super()._load_from_state_dict(*args, **kwargs)
        rows = torch.repeat_interleave(self.offsets.diff())
        if len(rows) == len(self.rows):  # else the sizes differ, which is refused
            self.rows.copy_(rows)

    def _apply(self, *args: Any, **kwargs: Any) -> DecomposedHead:
        self._kept.clear()
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def extra_repr(self) -> str:
        """Show the sizes in the module's repr."""
        return f"in_features={self.in_features}, out_features={self.out_features}, weights={len(self.weights)}"
