"""Heads that are no linear layer by kind: a cosine head, weights kept as integers, a small chain; all the way to a study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import subspect
from subspect import DecomposedHead, Network, SubspectError
from subspect.giving.retrain import train
from subspect.giving.settings import Settings
from subspect.heads.placing import with_decomposed
from subspect.heads.supports import Supports
from subspect.networks.summands import affine

D, C = 8, 3


class Cosine(nn.Module):
    """Logits are a scaled cosine of features and each class's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(C, D)), nn.Parameter(torch.tensor(7.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(x / x.norm(dim=1, keepdim=True), F.normalize(self.weight))


class Integers(nn.Module):
    """Weights in eight bits, with a scale for each class."""

    weight: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randint(-128, 128, (C, D), dtype=torch.int8))
        self.register_buffer("scale", torch.rand(C) / 100)
        self.register_buffer("bias", torch.randn(C))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale[:, None], self.bias)  # type: ignore[arg-type]


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(D, C))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel


class Bent(nn.Module):
    """What no head is: neither in its input nor in that scaled to length one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(C, D))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight).pow(3)


class Net(nn.Module):
    def __init__(self, head: nn.Module, share: float = 1) -> None:
        super().__init__()
        self.conv, self.head, self.share = nn.Conv2d(3, D, 3), head, share

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.conv(x)
        return maps.relu().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.share * self.head(self.features(x))
        return out


def chain() -> nn.Module:
    norm = nn.BatchNorm1d(C)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(torch.randn(C))
    norm.running_var.copy_(torch.rand(C) + 0.5)
    return nn.Sequential(nn.Linear(D, C), norm)


KINDS = {"cosine": Cosine, "integers": Integers, "transposed": Transposed, "chain": chain}


def made(kind: str, share: float = 1) -> Net:
    torch.manual_seed(0)
    return Net(KINDS[kind](), share).eval()


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    return torch.randn(90, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(90) % C


@pytest.mark.parametrize("share", [1, 0.25])
@pytest.mark.parametrize("kind", KINDS)
def test_the_head_is_found_and_read(kind: str, share: float, images: tuple[Tensor, Tensor]) -> None:
    model = made(kind, share)
    network = Network(model)
    head = network.find_head(images[0][:4])
    assert head.name == ("" if share == 1 else f"{share}*") + "head" + ("@unit" if kind == "cosine" else "")
    with torch.no_grad():
        features, logits = model.features(images[0]), model(images[0])
    features = F.normalize(features) if kind == "cosine" else features
    read, own = network.read(images[0])
    torch.testing.assert_close(read, features)
    torch.testing.assert_close(own, logits)
    torch.testing.assert_close(features @ head.weight.T + head.bias, logits, rtol=1e-4, atol=1e-5)
    assert network.head_known
    again = Network(made(kind, share), head=head.name).find_head(images[0][:4])
    assert again.name == head.name and torch.equal(again.weight, head.weight) and again.exact
    maps = subspect.read_maps(network, images[0][:4]).maps
    assert maps is not None
    torch.testing.assert_close(maps.mean((2, 3)), features[:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_named_without_what_is_done_to_its_input(kind: str, images: tuple[Tensor, Tensor]) -> None:
    found = Network(made(kind), head="head").find_head(images[0][:4])
    assert found.name == ("head@unit" if kind == "cosine" else "head") and found.exact


@pytest.mark.parametrize("kind", KINDS)
def test_a_decomposed_copy_gives_the_decomposed_logits(kind: str, images: tuple[Tensor, Tensor]) -> None:
    model = made(kind)
    network = Network(model)
    head = network.find_head(images[0][:4])
    features, _ = network.read(images[0])
    supports = Supports([[0, 7], [], range(D)], D)
    whole = DecomposedHead(supports, torch.linspace(-1, 1, len(supports.flat)), torch.tensor([0.5, -1.0, 2.0]))
    with torch.no_grad():
        torch.testing.assert_close(with_decomposed(model, head.name, whole)(images[0]), whole(features))


@pytest.fixture(scope="module")
def job(images: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> subspect.Job:
    return subspect.run(
        Network(made("cosine")), images, tmp_path_factory.mktemp("cosine") / "study", k=4, show_progress=False
    )


def test_a_cosine_head_goes_the_whole_way(job: subspect.Job, images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    study = subspect.open_study(job.study.path)
    assert study.identity.head_name == "head@unit"
    x = study.image_set("train").whole().features
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    small = job.decomposition.apply(made("cosine")).eval()
    weight, bias = job.decomposition.matrix()
    with torch.no_grad():
        np.testing.assert_allclose(small(images[0]).numpy(), x @ weight.T + bias, rtol=1e-4, atol=1e-5)
    network = Network(made("cosine"))
    done = job.decomposition.export(tmp_path / "net.onnx", network=network, images=images[0])
    assert done.difference is not None and done.difference < 1e-5
    pets = job.decomposition.specialise(network, classes=[2, 0], images=images[0], rounds=0)
    assert pets.dense.features == D
    assert not pets.stay or pets.why == "because the head is neither an nn.Linear nor a 1×1 convolution"
    one = job.decomposition.explain(network, images[0][0], name="0")
    assert one.maps and sum(term.contribution for term in one.terms) + one.bias == pytest.approx(
        one.difference, abs=1e-5
    )


def test_no_form_to_train_in(job: subspect.Job, images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    network = Network(made("cosine"))
    network.find_head(images[0][:4])
    with pytest.raises(
        SubspectError, match="the head 'head' is a Cosine and no nn.Linear, so a decomposed head cannot be"
    ):
        train(network, images, tmp_path / "out", job.decomposition, Settings(epochs=1), show_progress=False)


def test_what_is_no_head_says_so(images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(
        SubspectError, match=r"they are what 'head' \(Bent\) makes, which is linear neither in its input nor"
    ):
        Network(Net(Bent())).find_head(images[0][:4])
    with pytest.raises(SubspectError, match="head 'head' is not an nn.Linear or 1×1 convolution of this network"):
        Network(Net(Bent()), head="head").find_head(images[0][:4])


def test_weights_of_what_is_no_linear_layer() -> None:
    with pytest.raises(SubspectError, match="the head, a Bent, computes no linear layer; take another by head="):
        affine(Bent())


def test_a_product_outside_of_any_module(images: tuple[Tensor, Tensor]) -> None:
    class Bare(Net):
        def __init__(self) -> None:
            super().__init__(nn.Identity())
            self.weight = nn.Parameter(torch.randn(C, D))

        def forward(self, x: Tensor) -> Tensor:
            return 3 * F.linear(F.normalize(self.features(x)), F.normalize(self.weight))

    with pytest.raises(SubspectError, match="the network multiplies by a matrix outside of any module of its own"):
        Network(Bare()).find_head(images[0][:4])


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_dynamic_quantisation(images: tuple[Tensor, Tensor]) -> None:
    model = torch.ao.quantization.quantize_dynamic(Net(nn.Linear(D, C)), {nn.Linear})  # type: ignore[no-untyped-call]
    with pytest.raises(
        SubspectError, match=r"they are what 'head' \(DynamicQuantizedLinear\) makes, .* layer rounds it"
    ):
        Network(model).find_head(images[0][:4])


def test_rounded_inputs_are_no_linear_layer(images: tuple[Tensor, Tensor]) -> None:
    """As of dynamic quantisation, which rounds what it is given by the largest of the batch."""

    class Rounded(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            step = x.abs().max() / 7
            return F.linear((x / step).round() * step, self.weight, self.bias)

    with pytest.raises(SubspectError, match="the head 'head' does not give the network's own logits"):
        Network(Net(Rounded(D, C))).find_head(images[0][:4])
