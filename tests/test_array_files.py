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
