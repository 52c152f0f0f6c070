"""Networks whose inputs are no pictures: vectors, tokens, series, volumes, several tensors by name; the whole way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import subspect
from subspect import SubspectError
from subspect.giving.retrain import train as train_one
from subspect.giving.settings import Settings
from subspect.giving.training import Trained
from subspect.images.batches import batches
from subspect.images.inputs import inputs_from
from subspect.images.opening import open_images
from subspect.studies.first_images import sample

_CLASSES, _IMAGES = 4, 96


class _Tokens(nn.Module):
    """A transformer that averages over tokens (n, t, c)."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.fc = nn.Linear(8, _CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.block(x).mean(1))
        return out


def _features() -> nn.Module:
    return nn.Linear(5, _CLASSES)


def _vectors() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, _CLASSES))


def _series() -> nn.Module:
    pool = (nn.AdaptiveAvgPool1d(1), nn.Flatten())
    return nn.Sequential(nn.Conv1d(2, 8, 3, padding=1), nn.ReLU(), *pool, nn.Linear(8, _CLASSES))


def _volumes() -> nn.Module:
    pool = (nn.AdaptiveAvgPool3d(1), nn.Flatten())
    return nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), *pool, nn.Linear(8, _CLASSES))


# kind → how the network is made, the shape of one input, and the multiplications that one takes
KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "features": (_features, (5,), 5 * _CLASSES),
    "vectors": (_vectors, (5,), 5 * 12 + 12 * 8 + 8 * _CLASSES),
    "tokens": (_Tokens, (6, 8), 6 * (8 * 24 + 8 * 8 + 2 * 8 * 16) + 2 * 6 * 6 * 8 + 8 * _CLASSES),
    "series": (_series, (2, 10), 10 * 2 * 3 * 8 + 8 * _CLASSES),
    "volumes": (_volumes, (1, 4, 4, 4), 64 * 27 * 8 + 8 * _CLASSES),
}


def _made(kind: str) -> tuple[subspect.Network, tuple[np.ndarray, np.ndarray]]:
    """Return a network, and inputs with labels that it says itself."""
    make, shape, _ = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
        x = torch.randn(_IMAGES, *shape)
    with torch.no_grad():
        labels = (model(x) - model(x).mean(0)).argmax(1)
    return subspect.Network(model), (x.numpy(), labels.numpy())


@dataclass(frozen=True)
class _Done:
    kind: str
    network: subspect.Network
    arrays: tuple[np.ndarray, np.ndarray]
    job: subspect.Job


@pytest.fixture(scope="module", params=KINDS)
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Done:
    """The main job on each kind of inputs."""
    network, arrays = _made(request.param)
    job = subspect.run(network, arrays, tmp_path_factory.mktemp(request.param) / "study", k=3, show_progress=False)
    return _Done(request.param, network, arrays, job)


def test_run_and_what_the_report_says_of_the_network(done: _Done) -> None:
    assert len(done.job.study.image_set("train")) == _IMAGES
    assert f"does {KINDS[done.kind][2]:,} multiplications for one image" in done.job.report.read_text(encoding="utf-8")


def test_what_is_no_picture_is_not_said_to_be_missing(done: _Done, caplog: pytest.LogCaptureFixture) -> None:
    job = done.job
    caplog.clear()
    path = subspect.write_report(
        job.study,
        job.decomposition,
        fidelity=job.fidelity,
        images=done.arrays,
        network=done.network,
        show_progress=False,
    )
    page, shape = path.read_text(encoding="utf-8"), KINDS[done.kind][1]
    said = f"There are no pictures of &#39;train&#39; to show: a tensor of shape {shape} is not a picture."
    assert said in page and "could not be read" not in page and not caplog.records


def test_arrays_that_are_too_few_are_missed_without_a_word_of_folders(
    tiny: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x, labels = np.random.default_rng(0).random((60, 3, 8, 8), np.float32), np.arange(60) % 3
    network = subspect.Network(tiny)
    job = subspect.run(network, (x, labels), tmp_path / "study", k=2, show_progress=False)
    assert "data:image/webp" in job.report.read_text(encoding="utf-8")
    subspect.write_report(job.study, job.decomposition, fidelity=job.fidelity, images=x[:5], show_progress=False)
    assert "could not be read again from the images given" in caplog.text and "FOLDER" not in caplog.text
    assert "give those that were observed" in caplog.text


@pytest.mark.parametrize("kind", ["features", "vectors"])
def test_no_warning_and_no_word_of_folders_or_colours(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    network, (x, _) = _made(kind)
    with torch.no_grad():
        list(network.model.modules())[-1].bias -= network.model(torch.from_numpy(x)).mean(0)
        labels = network.model(torch.from_numpy(x)).argmax(1).numpy()
    study = subspect.observe(network, (x, labels), tmp_path / "right", show_progress=False)
    made = study.decompose(k=2, method="contribution", show_progress=False)
    assert made.evaluate().overall.dense_accuracy.value == 1
    page = made.report().read_text(encoding="utf-8")
    assert "from Python, pass them to write_report(images=…) if they are pictures." in page
    assert [one.getMessage() for one in caplog.records if one.levelname != "INFO"] == []
    subspect.observe(network, (x, (labels + 1) % _CLASSES), tmp_path / "wrong", show_progress=False)
    [warned] = [one.getMessage() for one in caplog.records if one.levelname != "INFO"]
    assert warned.endswith(
        "with 4 classes. Usual causes: the labels count the classes in a different order than the network does; the "
        "inputs, which were given ready for the network, are not prepared as they were in training (scale, mean, std); the "
        "weights are random, or of another training"
    )


@pytest.mark.parametrize("known", [False, True])
def test_inputs_of_another_width_are_refused(known: bool, tmp_path: Path) -> None:
    network, arrays = _made("features")
    if known:  # the head is not looked for again
        subspect.observe(network, arrays, tmp_path / "study", show_progress=False)
    with pytest.raises(SubspectError) as caught:
        subspect.observe(network, np.zeros((9, 7), np.float32), tmp_path / "other", show_progress=False)
    assert "the network failed on a batch (" in str(caught.value) and "mat1 and mat2 shapes" in str(caught.value)
    assert (
        "; a linear layer of it takes 5 numbers of each example and was given 7; check that inputs have the shape and the "
        "numbers that it expects"
    ) in str(caught.value)
    assert (
        str(caught.value).endswith("stays, unfinished: once that is put right, the same command goes on from there")
        == known
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "; its forward needs 'b' as well: give all by name, in a dict; check"),
        (["a", "b", "token_type_ids"], "; its forward takes no 'token_type_ids': leave out or rename; check"),
        (["a", "mass"], r"; its forward takes no 'mass' \(did you mean 'mask'\?\): leave .* needs 'b' as well"),
        ([], "; its forward needs 'b' as well: give all by name"),
    ],
)
def test_inputs_that_the_network_does_not_take_by_name(names: list[str], message: str, tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 3)

        def forward(self, a: torch.Tensor, b: torch.Tensor, *, mask: torch.Tensor | None = None) -> torch.Tensor:
            out: torch.Tensor = self.fc(a + b)
            return out

    given = {name: torch.zeros(8, 5) for name in names} if names else torch.zeros(8, 5)
    with pytest.raises(SubspectError, match=message):
        subspect.observe(subspect.Network(Both()), given, tmp_path / "study", show_progress=False)


def test_explaining_an_input_that_is_no_picture(done: _Done, tmp_path: Path) -> None:
    job, x = done.job, done.arrays[0]
    one = subspect.explain(job.study, job.decomposition, network=done.network, image=x[3], name="3")
    assert one.picture is None and one.maps is None and one.label == f"class {done.arrays[1][3]}"
    assert one.no_maps == f"inputs of shape {x[3].shape} are no pictures" and "is not shown" not in str(
        one.tables()[0].caption
    )
    assert sum(term.contribution for term in one.terms) + one.bias == pytest.approx(one.difference, abs=1e-5)
    assert (
        one.to_json()
        == subspect.explain(
            job.study, job.decomposition, network=done.network, image=torch.from_numpy(x[3]), name="3"
        ).to_json()
    )
    assert one.save(tmp_path).exists()
    for other in (np.zeros((8, 8, 3), np.uint8), Path(__file__)):
        with pytest.raises(
            SubspectError, match=r"images were given as tensors, .* subspect\.explain\(…, images\[0\]\); got"
        ):
            subspect.explain(job.study, job.decomposition, network=done.network, image=other)
    network, _ = _made(done.kind)
    with pytest.raises(SubspectError, match="the network failed on .*"):
        subspect.explain(job.study, job.decomposition, network=network, image=x[3][..., None])


def test_floating_pictures_are_explained_with_their_maps(tiny: nn.Module, tmp_path: Path) -> None:
    x, labels = np.random.default_rng(0).random((60, 3, 8, 8), np.float32), np.arange(60) % 3
    network = subspect.Network(tiny)
    job = subspect.run(network, (x, labels), tmp_path / "study", k=2, show_progress=False)
    one = subspect.explain(job.study, job.decomposition, network=network, image=x[0])
    assert one.picture is not None and one.picture.size == (8, 8) and one.maps
    assert one.save(tmp_path).exists()


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_export(done: _Done, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net.{suffix}"
    made = subspect.export(done.job.study, done.job.decomposition, path=path, network=done.network, images=done.arrays)
    assert made.difference is not None and made.difference < 1e-4


def test_specialise(done: _Done) -> None:
    job = done.job
    made = subspect.specialise(
        job.study, job.decomposition, network=done.network, classes=[0, 1], images=done.arrays, rounds=2
    )
    assert made.dense.multiplications == KINDS[done.kind][2]
    assert made.small.multiplications <= made.rows.multiplications < made.dense.multiplications


def test_a_single_input_is_enough_to_find_the_head(done: _Done) -> None:
    network, (x, _) = _made(done.kind)
    pixels = sample(network, open_images(x[:1]), 3)
    assert isinstance(pixels, torch.Tensor) and pixels.shape == (3, *x.shape[1:])
    assert network.find_head(pixels).n_classes == _CLASSES


def test_training_goes_on_but_pictures_alone_are_mirrored(done: _Done, tmp_path: Path) -> None:
    def train(folder: str, **settings: Any) -> Trained:
        given = Settings(epochs=1, batch_size=16, held_out=0.3, **settings)
        return train_one(
            done.network, done.arrays, tmp_path / folder, done.job.decomposition, given, show_progress=False
        )

    assert len(train("out").epochs) == 1
    for settings in ({"flip": True}, {"shift": 1}):
        with pytest.raises(SubspectError, match=r"flip and shift vary pictures .*; these images are \(.*train without"):
            train(f"refused-{next(iter(settings))}", **settings)


# Tokens, and several tensors by name ------------------------------------------------------------------------------------


class _Text(nn.Module):
    """The mean of the embeddings of tokens, of those that a mask names if there is one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.fc = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        words: torch.Tensor = self.embed(input_ids).relu()
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        out: torch.Tensor = self.fc((words * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        return out


class _Encoded(Dataset[Any]):
    """Texts as a tokenizer of transformers gives them, with labels."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(0, 20, (_IMAGES, 6), generator=generator)
        self.mask = (torch.arange(6) < torch.randint(1, 7, (_IMAGES, 1), generator=generator)).long()

    def __len__(self) -> int:
        return _IMAGES

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], int]:
        return {"input_ids": self.ids[index], "attention_mask": self.mask[index]}, index % 3

    def features(self, model: _Text) -> np.ndarray:
        """One text at a time, as the network's own pooling has them."""
        rows = []
        with torch.no_grad():
            for ids, mask in zip(self.ids, self.mask, strict=True):
                rows.append(model.embed(ids[mask > 0]).relu().mean(0).numpy())
        return np.array(rows)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> subspect.Job:
    study = tmp_path_factory.mktemp("text") / "study"
    return subspect.run(subspect.Network(_Text()), _Encoded(), study, k=3, show_progress=False)


def test_several_tensors_by_name(text: subspect.Job) -> None:
    chunk = text.study.image_set("train").whole()
    np.testing.assert_allclose(chunk.features, _Encoded().features(_Text()), atol=1e-6)
    items = _Encoded()
    small = text.decomposition.apply(_Text()).eval()
    weight, bias = text.decomposition.matrix()
    with torch.no_grad():
        said = small(input_ids=items.ids, attention_mask=items.mask).numpy()
    np.testing.assert_allclose(said, chunk.features @ weight.T + bias, atol=1e-5)
    one = text.decomposition.explain(subspect.Network(_Text()), items[0][0], name="0")
    assert sum(term.contribution for term in one.terms) + one.bias == pytest.approx(one.difference, abs=1e-5)


def test_several_tensors_in_batches_and_worker_processes(text: subspect.Job, tmp_path: Path) -> None:
    again = subspect.observe(subspect.Network(_Text()), _Encoded(), tmp_path / "s", workers=1, show_progress=False)
    shard = Path("sets", "train", "00000.arrow")
    assert (again.path / shard).read_bytes() == (text.study.path / shard).read_bytes()


def test_what_takes_one_tensor_says_so(text: subspect.Job, tmp_path: Path) -> None:
    message = r"takes several tensors by name \(input_ids, attention_mask\), and files and smaller networks are made of"
    for name in ("net.onnx", "net.pt2"):
        with pytest.raises(SubspectError, match=message):
            text.decomposition.export(tmp_path / name, network=subspect.Network(_Text()), images=_Encoded())
    text.decomposition.export(tmp_path / "head.safetensors")


def test_several_tensors_are_trained_on(text: subspect.Job, tmp_path: Path) -> None:
    network = subspect.Network(_Text())
    sample(network, open_images(_Encoded()))
    network.find_head(sample(network, open_images(_Encoded())))
    made = train_one(
        network, _Encoded(), tmp_path / "a", text.decomposition, Settings(epochs=1, batch_size=16), show_progress=False
    )
    assert made.epochs[0].loss > 0
    with pytest.raises(SubspectError, match=r"these images are input_ids \(6,\), attention_mask \(6,\): train without"):
        train_one(network, _Encoded(), tmp_path / "b", text.decomposition, Settings(epochs=1, batch_size=16, flip=True))


def test_tokens_alone(tmp_path: Path) -> None:
    items, model = _Encoded(), _Text()
    labels = np.arange(_IMAGES) % 3
    arrays: dict[str, np.ndarray | torch.Tensor] = {"array": items.ids.numpy().astype(np.int32), "tensor": items.ids}
    for name, given in arrays.items():
        study = subspect.observe(subspect.Network(model), (given, labels), tmp_path / name, show_progress=False)
        with torch.no_grad():
            wanted = model.embed(items.ids).relu().mean(1)
        np.testing.assert_allclose(study.image_set("train").whole().features, wanted, atol=1e-6)


def test_arrays_by_name(text: subspect.Job, tmp_path: Path) -> None:
    items = _Encoded()
    whole = {"input_ids": items.ids, "attention_mask": items.mask.numpy()}
    for name, given in (("pair", (whole, np.arange(_IMAGES) % 3)), ("alone", whole)):
        study = subspect.observe(subspect.Network(_Text()), given, tmp_path / name, show_progress=False)
        chunk = study.image_set("train").whole()
        np.testing.assert_array_equal(chunk.features, text.study.image_set("train").whole().features)
        assert study.image_set("train").labelled == (name == "pair")
    prints = [open_images({"a": items.ids, "b": items.mask[:, :end]}).fingerprint(None) for end in (6, 5, 6)]
    assert prints[0] == prints[2] != prints[1]
    open_images({"a": items.ids.bfloat16()}).fingerprint(None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"a": [[1, 2], [3]]},
            "the rows of 'a' are of different lengths; pad them to one, as a tokenizer does with padding=True",
        ),
        (
            {"a": torch.zeros(3, 2), "b": torch.zeros(2)},
            r"each have a row for every example; got 'a' \(3, 2\), 'b' \(2,\)",
        ),
        ({"a": 1.0}, r"each have a row for every example; got 'a' \(\)"),
        (
            {"a": torch.zeros(2, 1), "labels": [0, 1]},
            r"'labels' looks like labels: give them beside, \(arrays, labels\)",
        ),
    ],
)
def test_arrays_by_name_that_do_not_fit(given: Any, message: str) -> None:
    with pytest.raises(SubspectError, match=message):
        open_images(given)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            {"input_ids": [1, 2], "text": "two words"},
            "as numbers; 'text' is str (names: 'input_ids', 'text'); leave out",
        ),
        ({3: [1.0]}, "must hold what the network takes by keyword, as numbers; 3 is list"),
        ({"z": torch.zeros(2, dtype=torch.complex64)}, "as numbers; 'z' is Tensor"),
        ({}, "an example given by name is empty; give what the network takes, such as {'input_ids': …}"),
    ],
)
def test_what_is_by_name_and_no_numbers(item: Any, message: str) -> None:
    with pytest.raises(SubspectError) as refused:
        inputs_from(item)
    assert message in str(refused.value)


def test_examples_of_other_lengths_are_told_by_name() -> None:
    class Ragged(_Encoded):
        def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], int]:
            return {"input_ids": self.ids[index, : index + 1]}, 0

    with pytest.raises(SubspectError, match=r"of different sizes: 0 is input_ids \(1,\), 1 is input_ids \(2,\) after"):
        next(batches(open_images(Ragged()), None, None, [[0, 1]]))


def test_tokens_of_a_hugging_face_data_set(text: subspect.Job, tmp_path: Path) -> None:
    items = _Encoded()
    rows = {"input_ids": items.ids.tolist(), "attention_mask": items.mask.tolist()}
    whole = datasets.Dataset.from_dict({"text": ["words"] * _IMAGES, **rows, "label": [n % 3 for n in range(_IMAGES)]})
    for number, given in enumerate((whole, whole.with_format("torch"))):
        study = subspect.observe(subspect.Network(_Text()), given, tmp_path / str(number), show_progress=False)
        chunk, wanted = study.image_set("train").whole(), text.study.image_set("train").whole()
        assert np.array_equal(chunk.features, wanted.features) and np.array_equal(chunk.labels, wanted.labels)
