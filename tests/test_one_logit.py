"""A network that says yes or no by one logit is two classes with opposite rows, and goes the whole way as any other does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import subspect
from subspect import Network, SubspectError
from subspect.giving.retrain import train
from subspect.giving.settings import Settings
from subspect.heads.head import DecomposedHead
from subspect.networks.summands import two_logits, two_opposite_rows
from subspect.networks.weights import load_weights


class YesNo(nn.Module):
    """Pooled features and one logit, (n,) or (n, 1)."""

    def __init__(self, *, squeezed: bool = False, factor: float = 1.0, ends: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 1)
        self.ends, self.squeezed, self.factor = ends or nn.Identity(), squeezed, factor

    def forward(self, x: Tensor) -> Tensor:
        logit: Tensor = self.ends(self.factor * self.fc(self.conv(x).relu().mean((2, 3))))
        return logit[:, 0] if self.squeezed else logit


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(120, 3, 8, 8, generator=generator)
    with torch.no_grad():
        logits = YesNo()(pixels)[:, 0]
    return pixels, (logits > logits.median()).long()


@pytest.fixture(scope="module")
def job(images: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> subspect.Job:
    network = Network(YesNo(), class_names=["no", "yes"])
    return subspect.run(network, images, tmp_path_factory.mktemp("one") / "study", k=4, show_progress=False)


def test_a_softmax_of_opposite_rows_is_the_sigmoid() -> None:
    weight, bias, x = torch.randn(1, 5), torch.randn(1), torch.randn(7, 5)
    rows, biases = two_opposite_rows(weight, bias)
    logit = x @ weight.T + bias
    torch.testing.assert_close((x @ rows.T + biases).softmax(1)[:, 1:], logit.sigmoid())
    torch.testing.assert_close(two_logits(logit), x @ rows.T + biases)
    assert two_logits(x) is x


@pytest.mark.parametrize("options", [{}, {"squeezed": True}, {"factor": 0.4}])
def test_the_head_is_found(options: Any, images: tuple[Tensor, Tensor]) -> None:
    network = Network(YesNo(**options))
    head = network.find_head(images[0][:8])
    factor = options.get("factor", 1.0)
    assert head.one_logit and head.name == ("fc" if factor == 1 else "0.4*fc") and head.n_classes == 2
    torch.testing.assert_close(head.weight[1:], factor * YesNo(**options).fc.weight.detach() / 2)
    features, logits = network.read(images[0])
    torch.testing.assert_close(logits, features @ head.weight.T + head.bias)
    with torch.no_grad():
        torch.testing.assert_close(logits[:, 1] - logits[:, 0], network.model(images[0]).flatten())


def test_a_sigmoid_after_it_is_said(images: tuple[Tensor, Tensor]) -> None:
    network = Network(YesNo(ends=nn.Sigmoid()))
    with pytest.raises(SubspectError, match="the network applies a sigmoid after 'fc'; pass head="):
        network.find_head(images[0][:8])
    assert not Network(YesNo(ends=nn.Sigmoid()), head="fc").find_head(images[0][:8]).exact


def test_what_is_read_is_told(images: tuple[Tensor, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    subspect.observe(Network(YesNo()), images, tmp_path / "study", show_progress=False)
    said = "one logit, read as two classes: 'class 0' where it is negative, 'class 1' where it is positive; for a regression"
    assert said in caplog.text


def test_predictions_are_the_sign_and_the_choice_is_of_one_row(
    job: subspect.Job, images: tuple[Tensor, Tensor]
) -> None:
    chunk = job.study.image_set("train").whole()
    with torch.no_grad():
        said = YesNo()(images[0])[:, 0].numpy()
    np.testing.assert_array_equal(chunk.predictions, said > 0)
    no, yes = job.decomposition.supports
    assert list(no) == list(yes) and len(yes) == 4
    weight, bias = job.decomposition.matrix()
    np.testing.assert_allclose(weight[0], -weight[1], atol=1e-6)
    np.testing.assert_allclose(bias[0], -bias[1], atol=1e-6)


def test_a_decomposed_copy_gives_one_logit(job: subspect.Job, images: tuple[Tensor, Tensor]) -> None:
    small = job.decomposition.apply(YesNo()).eval()
    assert isinstance(small.fc, DecomposedHead) and small.fc.out_features == 1
    x = job.study.image_set("train").whole().features
    weight, bias = job.decomposition.matrix()
    both = x @ weight.T + bias
    with torch.no_grad():
        np.testing.assert_allclose(small(images[0])[:, 0].numpy(), both[:, 1] - both[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["net.pt2", "net.onnx"])
def test_export(job: subspect.Job, images: tuple[Tensor, Tensor], tmp_path: Path, name: str) -> None:
    done = job.decomposition.export(tmp_path / name, network=Network(YesNo()), images=images[0])
    assert done.difference is not None and done.difference < 1e-5


def test_specialise(job: subspect.Job, images: tuple[Tensor, Tensor]) -> None:
    done = job.decomposition.specialise(Network(YesNo()), images=images[0], rounds=0)
    small = job.decomposition.apply(YesNo()).eval()
    with torch.no_grad():
        torch.testing.assert_close(done.model(images[0]), small(images[0]), rtol=1e-4, atol=1e-5)
    assert done.small.features == 4
    with pytest.raises(SubspectError, match="has one logit, which decides between two classes; keep both, no, yes"):
        job.decomposition.specialise(Network(YesNo()), classes=["yes"], images=images[0], rounds=0)


def test_retrain(job: subspect.Job, images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    network = Network(YesNo())
    network.find_head(images[0][:2])
    given = Settings(epochs=1, batch_size=16, held_out=0.3)
    done = train(network, images, tmp_path / "out", job.decomposition, given, show_progress=False)
    loaded = YesNo()
    load_weights(loaded, done.path)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(images[0]), done.model.eval()(images[0]), rtol=1e-4, atol=1e-5)


def test_questions(job: subspect.Job, images: tuple[Tensor, Tensor]) -> None:
    one = job.decomposition.explain(Network(YesNo()), images[0][0], name="0")
    assert sum(term.contribution for term in one.terms) + one.bias == pytest.approx(one.difference, abs=1e-5)
    assert one.maps is not None
    assert job.decomposition.compare("no", "yes").tables()
    assert job.decomposition.essentiality(repeats=2, show_progress=False).tables()
    fidelity = job.decomposition.evaluate()
    assert fidelity.overall.fidelity.value > 0.8


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "multi_label_classification",
            "the network is for several labels at once (its config.problem_type is 'multi_label",
        ),
        ("regression", "the network is for numbers, not classes (its config.problem_type is 'regression')"),
        ("single_label_classification", None),
    ],
)
def test_what_a_network_says_of_its_task(task: str, message: str | None, images: tuple[Tensor, Tensor]) -> None:
    model = YesNo()
    model.config = SimpleNamespace(problem_type=task)  # type: ignore[assignment]
    if message is None:
        assert Network(model).find_head(images[0][:8]).one_logit
        return
    with pytest.raises(SubspectError) as refused:
        Network(model).find_head(images[0][:8])
    assert message in str(refused.value)
