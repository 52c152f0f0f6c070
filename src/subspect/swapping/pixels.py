"""Between pictures from 0, black, to 1, white, in which cues are swapped, and what a network gets.

Cues are swapped in what the network sees: resized and cropped. Where the preprocessing is known in numbers, its mean and std
are undone and done again; where it isn't (a transform of the user's own, tensors that were ready), the smallest and the largest
value of each channel, over the first images, stand for black and white. Pictures that the preprocessing enlarges are swapped
before, as an edge that is enlarged bleeds over the patch that is set in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from subspect.ground.errors import SubspectError, Unusable
from subspect.images.inputs import Pixels, shape_of
from subspect.images.preprocessing import AnyPreprocessing, Preprocessing
from subspect.images.sources import Images

_LEAST = 4  # pixels of a side
_LOOKED_AT = 8  # images that tell whether all are of one size


@dataclass(frozen=True, eq=False)
class Tones:
    """What is black and what is white to a network.

    Attributes:
        black: (channels, 1, 1).
        white: likewise.
    """

    black: Tensor
    white: Tensor

    @classmethod
    def of(cls, preprocessing: AnyPreprocessing | None, pixels: Tensor) -> Tones:
        """Find them by the preprocessing, or by some images (n, channels, height, width)."""
        if isinstance(preprocessing, Preprocessing):
            mean, std = (torch.tensor(one)[:, None, None] for one in (preprocessing.mean, preprocessing.std))
            return cls((0 - mean) / std, (1 - mean) / std)
        black, white = pixels.amin(dim=(0, 2, 3))[:, None, None], pixels.amax(dim=(0, 2, 3))[:, None, None]
        return cls(black, torch.where(white > black, white, black + 1))

    def pictures(self, pixels: Tensor) -> Tensor:
        """Return from 0 to 1 what a network gets."""
        return (pixels - self.black) / (self.white - self.black)

    def pixels(self, pictures: Tensor) -> Tensor:
        """Return for the network what is from 0 to 1."""
        return self.black + pictures * (self.white - self.black)


@dataclass(frozen=True, eq=False)
class Enlarged:
    """Pictures smaller than what the network gets: they are swapped first, then prepared.

    Attributes:
        preprocessing: of the network.
    """

    preprocessing: Preprocessing

    def pictures(self, pixels: Tensor) -> Tensor:
        """Return pictures that were read as they are."""
        return pixels

    def pixels(self, pictures: Tensor) -> Tensor:
        """Prepare pictures from 0 to 1 for the network."""
        levels = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return torch.stack([self.preprocessing(Image.fromarray(np.ascontiguousarray(one))) for one in levels])


AS_THEY_ARE = Preprocessing(resize=None, crop=None, mean=(0, 0, 0), std=(1, 1, 1))  #: RGB from 0 to 1
View = Tones | Enlarged


def enlarged(preprocessing: AnyPreprocessing | None, images: Images, ids: Sequence[str]) -> Enlarged | None:
    """Return how to prepare pictures after swapping, if they are all of one size and the preprocessing enlarges them."""
    if not isinstance(preprocessing, Preprocessing) or images.ready:
        return None
    sizes = set()
    for id in ids[:: max(1, len(ids) // _LOOKED_AT)]:
        try:
            picture = images.picture(id)
            sizes.add((picture.size, preprocessing.view(picture).size))
        except Unusable:
            continue
    pairs = [(own, seen) for own, seen in sizes if own[0] < seen[0] and own[1] < seen[1]]
    return Enlarged(preprocessing) if len(sizes) == len(pairs) == 1 else None


def checked(pixels: Pixels) -> Tensor:
    """Return a batch of pictures, once it is one.

    Raises:
        SubspectError: the network takes something else than (n, channels, height, width).
    """
    if (
        isinstance(pixels, Tensor)
        and pixels.ndim == 4
        and pixels.is_floating_point()
        and min(pixels.shape[-2:]) >= _LEAST
    ):
        return pixels
    raise SubspectError(
        f"a cue is swapped in pictures (n, channels, height, width) of {_LEAST}×{_LEAST} pixels or more, and the network gets "
        f"{shape_of(pixels)}; of such examples decompose, evaluate, explain and report can tell"
    )
