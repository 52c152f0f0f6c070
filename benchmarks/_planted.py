"""Made-up features whose true supports are known, and the dense heads that one would learn on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from subspect.choosing.boundary import Affine
from subspect.choosing.pursuit import Indices

PENALTIES = (1e-2, 3e-3, 1e-3)  #: l2 of the dense head, from strong to weak; a validation split picks one
_BLOCK = 16  # features that go together
_SHARED = 0.5  # what they share: the loading of each on its block's common factor, before the ReLU
_SCALE = 4.0  # standard deviation of a class's logit; with 100 classes the true model is right on 59 % of the images
_HELD_OUT = 0.1  # of the training images, for validation
_RAISED = 0.05  # of the features, by each class, in `clustered`; a discriminant is right on 70 % of new images


class Features(NamedTuple):
    """Features (n, d) float32 and labels (n,)."""

    x: npt.NDArray[np.float32]
    y: Indices


class Planted(NamedTuple):
    """Features to learn from and to test on, the planted support of each class, and the planted head."""

    train: Features
    test: Features
    supports: list[Indices]
    head: Affine


def plant(images: int, features: int, classes: int, active: int, seed: int) -> Planted:
    """Draw ReLU features with correlated blocks, and labels from the softmax of a head with few active features a class."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.zeros(classes, features)
    supports = []
    for row in weight:
        support = torch.randperm(features, generator=generator)[:active].sort().values
        sign = torch.where(torch.rand(active, generator=generator) < 0.5, -1.0, 1.0)
        row[support] = sign * (0.5 + torch.rand(active, generator=generator))
        supports.append(support.numpy())
    x = torch.relu_(_noise(images, features, generator))
    logits = x @ weight.T
    weight *= (_SCALE / logits.std(0))[:, None]
    bias = -(x @ weight.T).mean(0)

    def labelled(x: torch.Tensor) -> Features:
        chances = torch.softmax(x @ weight.T + bias, 1)
        return Features(x.numpy(), torch.multinomial(chances, 1, generator=generator)[:, 0].numpy())

    train = labelled(x)
    test = labelled(torch.relu_(_noise(images // 5, features, generator)))
    return Planted(train, test, supports, (weight.double().numpy(), bias.double().numpy()))


def dense_head(data: Features, classes: int, seed: int, say: Callable[[str], object]) -> Affine:
    """Learn a dense head: multinomial logistic regression, its l2 penalty picked on a tenth of the images."""
    order = torch.randperm(len(data.y), generator=torch.Generator().manual_seed(seed))
    x, y = torch.from_numpy(data.x)[order], torch.from_numpy(data.y)[order]
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-12)
    x.sub_(mean).div_(deviation)
    held = int(_HELD_OUT * len(y))
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    best = float("inf"), weight.detach().clone(), bias.detach().clone()
    for penalty in PENALTIES:
        _descend(x[held:], y[held:], weight, bias, penalty)
        with torch.no_grad():
            loss = float(torch.nn.functional.cross_entropy(x[:held] @ weight.T + bias, y[:held]))
            say(f"dense head, l2 = {penalty:g}: validation loss {loss:.4f}")
            if loss < best[0]:
                best = loss, weight.detach().clone(), bias.detach().clone()
    raw = (best[1] / deviation).double()
    return raw.numpy(), (best[2].double() - raw @ mean.double()).numpy()


def clustered(images: int, features: int, classes: int, seed: int) -> Features:
    """Draw ReLU features that gather around a centre for each class, as those of a trained network do."""
    generator = torch.Generator().manual_seed(seed)
    raised = torch.rand(classes, features, generator=generator) < _RAISED
    centres = raised * torch.rand(classes, features, generator=generator)
    y = torch.randint(classes, (images,), generator=generator)
    return Features(torch.relu_(_noise(images, features, generator).add_(centres[y]).sub_(0.5)).numpy(), y.numpy())


def discriminant_head(data: Features, classes: int) -> Affine:
    """Return Fisher's linear discriminant: a dense head for very many classes, by one solve."""
    x, y = torch.from_numpy(data.x).double(), torch.from_numpy(data.y)
    covariance = torch.cov(x.T)
    covariance += 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance))
    counts = torch.bincount(y, minlength=classes).clamp_min(1)
    means = torch.zeros(classes, x.shape[1], dtype=torch.float64).index_add_(0, y, x) / counts[:, None]
    weight = torch.linalg.solve(covariance, means.T).T
    bias = -(weight * means).sum(1) / 2 + torch.log(counts / len(y))
    return weight.numpy(), bias.numpy()


def _noise(images: int, features: int, generator: torch.Generator) -> torch.Tensor:
    """Draw standard normal features, correlated within blocks."""
    shared = torch.randn(images, -(-features // _BLOCK), generator=generator).repeat_interleave(_BLOCK, 1)[:, :features]
    own = torch.randn(images, features, generator=generator)
    return shared.mul_(_SHARED).add_(own, alpha=(1 - _SHARED**2) ** 0.5)


def _descend(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, penalty: float) -> None:
    """Minimise cross-entropy and penalty by L-BFGS, from where weight and bias are."""
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=40, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ weight.T + bias, y) + penalty / 2 * (weight**2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
