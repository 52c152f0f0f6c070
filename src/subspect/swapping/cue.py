"""What a cue is: something in an image that can be made uninformative while the label stays.

A cue *swaps*: it gives an image the cue of another image, of another class, so that over all images the cue's distribution
stays what it was and only its link to the class is cut. Some can't come from another image (where a thing stands, how large it
is); they are scrambled at random instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor

from subspect.ground.errors import SubspectError


class Cue(ABC):
    """Something in an image that can be swapped. A cue of one's own is a class with a name, and a `swap`::

        class Bottom(subspect.Cue):
            name, what = "bottom", "the lowest tenth"

            def swap(self, images, others, random):
                tenth = images.shape[-2] // 10
                return torch.cat([images[..., :-tenth, :], others[..., -tenth:, :]], dim=-2)

    Attributes:
        name: as it is named on the command line.
        what: what of the image it is, in words.
        colours: whether it is one only where images have three channels.
        exchanged: whether it comes from the other image; else it is taken away, or scrambled.
    """

    name: str
    what: str
    colours: bool = False
    exchanged: bool = True

    @abstractmethod
    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Return images with the cue of others.

        Args:
            images: (n, channels, height, width) from 0, black, to 1, white; not to be changed in place.
            others: of the same shape, an image of another class for each.
            random: what chance there is comes from here, so that a seed gives the same images again.

        Returns:
            (n, channels, height, width); what lies outside 0 to 1 is cut off.
        """


def swapped(cue: Cue, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
    """Return images with a cue swapped, between 0 and 1.

    Raises:
        SubspectError: the cue failed, or returned something else than images of that shape.
    """
    try:
        made = cue.swap(images, others, random)
    except Exception as error:  # of the user's own
        raise SubspectError(f"cue {cue.name!r} failed on {_said(images)}: {type(error).__name__}: {error}") from error
    if not isinstance(made, Tensor) or made.shape != images.shape or not made.is_floating_point():
        raise SubspectError(
            f"cue {cue.name!r} must return images as it was given them, {_said(images)}; got {_said(made)}"
        )
    if not made.isfinite().all():
        raise SubspectError(f"cue {cue.name!r} returned NaN or infinity; it must return numbers from 0 to 1")
    return made.clamp(0, 1)


def _said(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
