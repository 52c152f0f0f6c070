"""Between what a network gets and pictures from 0, black, to 1, white, in which cues are swapped.

Where the preprocessing is known in numbers, its mean and std are undone and done again. Where it isn't (a transform of the
user's own, tensors that were ready), the smallest and the largest value of each channel, over the first images, stand for
black and white.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subspect.ground.errors import SubspectError
from subspect.images.inputs import Pixels, shape_of
from subspect.images.preprocessing import AnyPreprocessing, Preprocessing


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
    def of(cls, preprocessing: AnyPreprocessing | None, pixels: Pixels) -> Tones:
        """Find them by the preprocessing, or by some images (n, channels, height, width).

        Raises:
            SubspectError: the images aren't pictures.
        """
        pixels = checked(pixels)
        if isinstance(preprocessing, Preprocessing):
            mean, std = (
                torch.tensor(one, dtype=pixels.dtype)[:, None, None] for one in (preprocessing.mean, preprocessing.std)
            )
            return cls((0 - mean) / std, (1 - mean) / std)
        black, white = pixels.amin(dim=(0, 2, 3))[:, None, None], pixels.amax(dim=(0, 2, 3))[:, None, None]
        return cls(black, torch.where(white > black, white, black + 1))

    def pictures(self, pixels: Tensor) -> Tensor:
        """Return from 0 to 1 what a network gets."""
        return (pixels - self.black) / (self.white - self.black)

    def pixels(self, pictures: Tensor) -> Tensor:
        """Return for the network what is from 0 to 1."""
        return self.black + pictures * (self.white - self.black)


def checked(pixels: Pixels) -> Tensor:
    """Return a batch of pictures, once it is one.

    Raises:
        SubspectError: the network takes something else than (n, channels, height, width).
    """
    if (
        isinstance(pixels, Tensor)
        and pixels.ndim == 4
        and pixels.is_floating_point()
        and min(pixels.shape[-2:]) >= LEAST
    ):
        return pixels
    raise SubspectError(
        f"a cue is swapped in pictures (n, channels, height, width) of at least {LEAST}×{LEAST} pixels, and the network gets "
        f"{shape_of(pixels)}; of such examples, and of features alone, decompose, evaluate, explain and report work"
    )


LEAST = 4  #: pixels of a side
