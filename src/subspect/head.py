"""The layer that computes logits from supports and weights: ``logits[c] = Σ_{i in S_c} w[c, i] · x[i] + b[c]``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subspect.supports import Supports


class DecomposedHead(nn.Module):
    """A linear layer in which every class sees only its own features; shapes in and out are the dense head's.

    Args:
        supports: the features of every class.
        weights: (nnz,) the weight of each entry of ``supports.flat``.
        bias: (C,).
        convolution: whether the head stands for a 1×1 convolution: (n, d, h, w) → (n, C, h, w).
    """

    indices: Tensor
    rows: Tensor

    def __init__(self, supports: Supports, weights: Tensor, bias: Tensor, *, convolution: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features, self.convolution = supports.n_features, len(supports), convolution
        self.weights = nn.Parameter(weights.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.register_buffer("indices", torch.tensor(supports.flat))
        self.register_buffer("rows", torch.tensor(supports.rows))

    def dense_weight(self) -> Tensor:
        """Return (C, d): the weights at their places and zeros elsewhere; differentiable."""
        empty = self.weights.new_zeros(self.out_features, self.in_features)
        return empty.index_put((self.rows, self.indices), self.weights)

    def forward(self, input: Tensor) -> Tensor:
        """Return the logits: (n, …, d) → (n, …, C), or (n, d, h, w) → (n, C, h, w) for a convolution."""
        weight = self.dense_weight()
        if self.convolution:
            return F.conv2d(input, weight[:, :, None, None], self.bias)
        return F.linear(input, weight, self.bias)

    def extra_repr(self) -> str:
        """Show the sizes in the module's repr."""
        return f"in_features={self.in_features}, out_features={self.out_features}, weights={len(self.weights)}"
