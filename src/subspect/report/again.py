"""Images opened once more to be shown: as a person looks at them, and as the network gets them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from PIL import Image

from subspect.ground.errors import NoPicture, SubspectError, Unusable
from subspect.images.preprocessing import AnyPreprocessing, view, visible
from subspect.images.sources import Picture
from subspect.studies.reopen import Reopened

_BATCH = 16  # images that run through the network at a time


def opened_again(
    again: Reopened, preprocessing: AnyPreprocessing | None, missing: dict[str, str]
) -> Iterator[tuple[list[tuple[str, Image.Image]], list[torch.Tensor]]]:
    """Open images, some at a time: id and picture of each, and what the network gets, where that is known of all of them.

    Args:
        again: the images.
        preprocessing: of the network; None where it isn't known, or images are ready.
        missing: takes the reasons, by id, of what couldn't be read.

    Raises:
        NoPicture: the images are such that there is nothing to look at.
    """
    ids = [again.id(place) for place in range(len(again))]
    for start in range(0, len(ids), _BATCH):
        shown: list[tuple[str, Image.Image]] = []
        pixels: list[torch.Tensor] = []
        for id in ids[start : start + _BATCH]:
            try:
                picture, tensor = _seen(again.given(id), preprocessing)
            except NoPicture:
                raise
            except (Unusable, SubspectError) as error:
                missing[id] = str(error)
                continue
            shown.append((id, picture))
            pixels += [] if tensor is None else [tensor]
        yield shown, pixels


def by_size(pixels: Sequence[torch.Tensor]) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Put images of one size together: their places, and the batch (n, …)."""
    found: dict[torch.Size, list[int]] = {}
    for place, tensor in enumerate(pixels):
        found.setdefault(tensor.shape, []).append(place)
    for places in found.values():
        yield places, torch.stack([pixels[place] for place in places])


def _seen(given: Picture, preprocessing: AnyPreprocessing | None) -> tuple[Image.Image, torch.Tensor | None]:
    """Return an image as a person looks at it, and as the network gets it, if that is known."""
    if not isinstance(given, Image.Image):
        picture = visible(given)
        assert isinstance(given, torch.Tensor)  # several by name are no picture
        return picture, given
    if preprocessing is None:
        return given, None
    return view(preprocessing, given), preprocessing(given)
