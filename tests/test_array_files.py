"""Images in .npy, .npz and .safetensors: as the same arrays in memory; pickles and damaged files are refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import subspect
from conftest import PIXELS as PREPARED
from packed import labels_of, pixels_of, stored
from subspect.ground.errors import SubspectError
from subspect.images.opening import open_images, reopened_images

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(9) % 3


@pytest.mark.parametrize(
    ("first", "second"), [("images", "labels"), ("x", "y"), ("data", "targets"), ("Image", "label")]
)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_arrays_with_labels(tmp_path: Path, suffix: str, first: str, second: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez(path, **{first: PIXELS, second: LABELS})  # type: ignore[arg-type]
    else:
        channels_first = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).contiguous()
        save_file({first: channels_first, second: torch.from_numpy(LABELS)}, path)
    images = open_images(path)
    assert (images.kind, images.ready, images.place) == ("array file", False, str(path))
    assert np.array_equal(pixels_of(images), PIXELS) and labels_of(images) == LABELS.tolist()


def test_features_are_those_of_the_arrays_in_memory(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS)
    one, two = stored(tmp_path / "a.npz", tmp_path / "a", workers=1), stored((PIXELS, LABELS), tmp_path / "b")
    assert one["features"] == two["features"] and one["labels"] == two["labels"] == LABELS.tolist()


def test_one_array_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    images = open_images(tmp_path / "a.npy")
    assert np.array_equal(pixels_of(images), PIXELS) and not images.labelled
    assert len(pickle.dumps(images)) < 500 and np.array_equal(pixels_of(pickle.loads(pickle.dumps(images))), PIXELS)
    again = reopened_images(str(tmp_path / "a.npy"), None)
    assert again is not None and again.read(3).digest == images.read(3).digest != images.read(4).digest
    with pytest.raises(SubspectError, match=r"a\.npy contains one array without a name; leave out --image-column"):
        open_images(tmp_path / "a.npy", label_column="y")


def test_floating_arrays_are_ready_and_not_opened_again_by_a_study(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS.astype(np.float32))
    images = open_images(tmp_path / "a.npy")
    assert images.ready and images.place is None


@pytest.mark.parametrize(
    ("images", "shape"),
    [(np.moveaxis(PIXELS, -1, 1), r"\(9, 3, 8, 8\) uint8"), (PIXELS.astype(np.int64), r"\(9, 8, 8, 3\) int64")],
)
def test_pictures_in_another_order_or_type_are_refused_by_name(tmp_path: Path, images: Any, shape: str) -> None:
    np.savez(tmp_path / "a.npz", images=images, labels=LABELS)
    expected = (
        rf"a\.npz: 'images' is {shape}; expected pictures with channels last \(n, height, width, 1, 3 or 4\) uint8"
    )
    with pytest.raises(SubspectError, match=rf"{expected}.* come first: images\.transpose\(0, 2, 3, 1\)"):
        open_images(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", images)
    with pytest.raises(SubspectError, match=rf"a\.npy: 'the array' is {shape}; expected"):
        open_images(tmp_path / "a.npy")
    save_file({"x": torch.from_numpy(np.moveaxis(images, 1, -1).copy())}, tmp_path / "a.safetensors")
    with pytest.raises(
        SubspectError, match=r"a\.safetensors: 'x' is \(.*; expected pictures with channels first \(n, 1, 3"
    ):
        open_images(tmp_path / "a.safetensors")


def test_labels_of_another_number_are_refused_with_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS[:2])
    with pytest.raises(SubspectError, match=r"a\.npz: labels must be 9 class indices, one per image; got 2"):
        open_images(tmp_path / "a.npz")


def test_floating_images_whose_channels_come_last(tiny: nn.Module, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS.astype(np.float32))
    expected = (
        r"failed on a batch \(2, 8, 8, 3\), whose channels seem to come last \(give them first: images\.transpose\("
    )
    with pytest.raises(SubspectError, match=expected):
        subspect.observe(subspect.Network(tiny), tmp_path / "a.npy", tmp_path / "study", show_progress=False)


def test_preprocessing_that_floating_arrays_are_not_given_is_told(
    tiny: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "a.npy", np.moveaxis(PIXELS, -1, 1).astype(np.float32))
    network = subspect.Network(tiny, preprocessing=PREPARED)
    subspect.observe(network, tmp_path / "a.npy", tmp_path / "study", show_progress=False)
    assert "taken as ready for the network, and the preprocessing (no resize, no centre crop, mean" in caplog.text


def test_arrays_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=PIXELS, x_test=PIXELS[:2], y_test=LABELS[:2])
    images = open_images(tmp_path / "a.npz", image_column="x_test", label_column="y_test")
    assert len(images) == 2 and labels_of(images) == [0, 1] and images.image_column == "x_test"
    assert not open_images(tmp_path / "a.npz", image_column="x_test", label_column="none").labelled
    with pytest.raises(
        SubspectError, match=r"a\.npz has no arrays of images: its arrays are x_train, x_test, y_test; call"
    ):
        open_images(tmp_path / "a.npz")
    with pytest.raises(
        SubspectError, match=r"has no array 'x_tets' \(did you mean 'x_test'.*\?\); its arrays are x_tr"
    ):
        open_images(tmp_path / "a.npz", image_column="x_tets")
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS, y=LABELS)
    with pytest.raises(
        SubspectError, match=r"a\.npz has several arrays of labels: its arrays are images, labels, y; call"
    ):
        open_images(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", images=PIXELS, x=PIXELS)
    with pytest.raises(SubspectError, match=r"a\.npz has several arrays of images: its arrays are images, x; call"):
        open_images(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_files_that_cannot_be_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(
        SubspectError, match=rf"a\{suffix} cannot be read \(.+\); save arrays of numbers, labels as class indices"
    ):
        open_images(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_no_pickle_is_opened(tmp_path: Path, suffix: str) -> None:
    odd: Any = np.array([{"a": 1}], object)
    path = tmp_path / f"a{suffix}"
    np.savez(path, images=odd) if suffix == ".npz" else np.save(path, odd, allow_pickle=True)
    with pytest.raises(SubspectError, match=rf"a\{suffix} contains Python objects, which subspect doesn't open"):
        open_images(path)
