"""The cues that are built in: where things stand, tones, patterns, and how things are arranged.

Shares of a side are of the image's own: on 224×224 pixels a corner of a quarter is 56×56. Brightness is Y of YCbCr (ITU-R
BT.601); where there are no three channels, their mean.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from subspect.swapping.cue import Cue

_LIGHT = (0.299, 0.587, 0.114)  # of red, green and blue
_DARK = 1 / 64  # added before a logarithm, so that black has one
_FLAT = 1e-4  # a spread below which there is nothing to stretch: less than a tenth of a level of 255
_STRETCH = 5.0  # the most that contrast is stretched by: a nearly flat image would become noise
_TILES = 4  # on each side
_BLUR = 32  # the share of the short side that the blur spreads over, as 1 in so many


class Border(Cue):
    """The outer ring, 15 % of each side, of another image."""

    name, what, share = "border", "the outer ring", 0.15

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Keep what lies within the ring."""
        return torch.where(_inside(images, self.share), images, others)


class Centre(Cue):
    """All but the outer ring of 15 %, of another image."""

    name, what, share = "centre", "the inner part", 0.15

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Keep the ring."""
        return torch.where(_inside(images, self.share), others, images)


class Corner(Cue):
    """One corner, 25 % of each side, of another image."""

    share = 0.25

    def __init__(self, vertical: str, horizontal: str) -> None:
        self.vertical, self.horizontal = vertical, horizontal
        self.name, self.what = f"corner-{vertical}-{horizontal}", f"the {vertical} {horizontal} corner"

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Set the other's corner in."""
        height, width = (max(1, round(self.share * side)) for side in images.shape[-2:])
        rows = slice(height) if self.vertical == "top" else slice(-height, None)
        columns = slice(width) if self.horizontal == "left" else slice(-width, None)
        made = images.clone()
        made[..., rows, columns] = others[..., rows, columns]
        return made


class Colour(Cue):
    """Mean and spread of another image's colour, in the logarithms of red, green and blue less their mean.

    There a tint is a shift, and what is grey has none (as in Reinhard et al. 2001). The brightness of each pixel stays.
    """

    name, what, colours = "colour", "the colour", True

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Shift and stretch the colour of each pixel."""
        own, other = ((one + _DARK).log() for one in (images, others))
        grey = own.mean(dim=1, keepdim=True)
        chroma, wanted = own - grey, other - other.mean(dim=1, keepdim=True)
        made = (grey + _stretched(chroma, wanted) + wanted.mean(dim=(2, 3), keepdim=True)).exp() - _DARK
        made = made.clamp_min(0)
        return made * _light(images) / _light(made).clamp_min(_FLAT)


class Grey(Cue):
    """No colour at all."""

    name, what, colours = "grey", "that there is colour", True
    exchanged = False

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Keep the brightness."""
        return _light(images).expand_as(images).clone()


class Brightness(Cue):
    """Mean brightness of another image."""

    name, what = "brightness", "the brightness"

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Shift all pixels alike."""
        own, other = (_light(one).mean(dim=(2, 3), keepdim=True) for one in (images, others))
        return images + other - own


class Contrast(Cue):
    """Spread of the brightness of another image."""

    name, what = "contrast", "the contrast"

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Stretch the brightness about its mean."""
        own = _light(images)
        return images + _stretched(own, _light(others)) - (own - own.mean(dim=(2, 3), keepdim=True))


class Texture(Cue):
    """Amplitudes of another image's frequencies, with this image's phases; the mean of each channel stays."""

    name, what = "texture", "the texture"

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Exchange amplitudes."""
        return _mixed(amplitudes=others, phases=images, mean=images)


class Grain(Cue):
    """The finest quarter of another image's frequencies, on either axis."""

    name, what = "grain", "the finest grain"

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Exchange the frequencies from three quarters of the highest on."""
        height, width = images.shape[-2:]
        rows, columns = torch.fft.fftfreq(height).abs()[:, None], torch.fft.rfftfreq(width)
        fine = (rows >= 0.75 / 2) | (columns >= 0.75 / 2)
        made: Tensor = torch.fft.irfft2(
            torch.where(fine, torch.fft.rfft2(others), torch.fft.rfft2(images)), s=(height, width)
        )
        return made


class Layout(Cue):
    """Phases of another image's frequencies, with this image's amplitudes; the mean of each channel stays."""

    name, what = "layout", "where things stand"

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Exchange phases."""
        return _mixed(amplitudes=images, phases=others, mean=images)


class Detail(Cue):
    """Nothing finer than 1/32 of the short side: blurred by a Gaussian of that width, at least a pixel."""

    name, what = "detail", "fine detail"
    exchanged = False

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Blur."""
        sigma = max(1.0, min(images.shape[-2:]) / _BLUR)
        for axis in (-2, -1):
            images = _blurred(images.transpose(axis, -1), sigma).transpose(axis, -1)
        return images


class Arrangement(Cue):
    """Tiles, a quarter of each side, shuffled."""

    name, what = "arrangement", "how parts are arranged"
    exchanged = False

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Shuffle each image on its own."""
        n, channels, height, width = images.shape
        high, wide = height // _TILES, width // _TILES
        tiles = images[..., : high * _TILES, : wide * _TILES].reshape(n, channels, _TILES, high, _TILES, wide)
        tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        order = torch.from_numpy(random.permuted(np.tile(np.arange(_TILES**2), (n, 1)), axis=1))
        tiles = tiles[torch.arange(n)[:, None], order].reshape(n, _TILES, _TILES, channels, high, wide)
        made = images.clone()
        made[..., : high * _TILES, : wide * _TILES] = tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        return made


class Mirror(Cue):
    """Left and right exchanged."""

    name, what = "mirror", "what is left and what is right"
    exchanged = False

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Mirror."""
        return images.flip(-1)


class Place(Cue):
    """Shifted by a fifth, in one of the eight directions; what comes in is what lay at the edge, mirrored."""

    name, what = "place", "the place in the image"
    exchanged = False

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Shift each image on its own."""
        ways = torch.tensor([[x, y] for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y], dtype=images.dtype)
        shifts = 0.4 * ways[torch.from_numpy(random.integers(len(ways), size=len(images)))]  # from −1 to 1 is a side
        return _moved(images, torch.ones(len(images)), shifts)


class Scale(Cue):
    """Half as large again, or two thirds; around what becomes smaller is what lay at the edge, mirrored."""

    name, what = "scale", "the size"
    exchanged = False

    def swap(self, images: Tensor, others: Tensor, random: np.random.Generator) -> Tensor:
        """Zoom in or out, each image on its own."""
        zoom = torch.from_numpy(np.where(random.integers(2, size=len(images)), 1.5, 2 / 3)).to(images.dtype)
        return _moved(images, zoom, torch.zeros(len(images), 2))


CORNERS = tuple(Corner(vertical, horizontal) for vertical in ("top", "bottom") for horizontal in ("left", "right"))
CUES: tuple[Cue, ...] = (
    *(Border(), Centre(), *CORNERS),
    *(Colour(), Grey(), Brightness(), Contrast()),
    *(Texture(), Grain(), Layout(), Detail()),
    *(Arrangement(), Mirror(), Place(), Scale()),
)  #: those that are built in


def _inside(images: Tensor, share: float) -> Tensor:
    """Return (height, width): whether a pixel lies within the ring."""
    height, width = images.shape[-2:]
    up, left = max(1, round(share * height)), max(1, round(share * width))
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[up : height - up, left : width - left] = True
    return inside


def _light(images: Tensor) -> Tensor:
    """Return (n, 1, height, width): the brightness; the mean of the channels where these aren't red, green and blue."""
    if images.shape[1] != len(_LIGHT):
        return images.mean(dim=1, keepdim=True)
    return (images * torch.tensor(_LIGHT, dtype=images.dtype)[:, None, None]).sum(dim=1, keepdim=True)


def _stretched(own: Tensor, other: Tensor) -> Tensor:
    """Return deviations from the mean of each channel with the spread of another image's; where there are none, none."""
    from_mean = own - own.mean(dim=(2, 3), keepdim=True)
    spread, wanted = (one.std(dim=(2, 3), keepdim=True, correction=0) for one in (own, other))
    by = torch.where(spread > _FLAT, wanted / spread.clamp_min(_FLAT), torch.zeros_like(spread))
    return from_mean * by.clamp_max(_STRETCH)


def _mixed(amplitudes: Tensor, phases: Tensor, mean: Tensor) -> Tensor:
    """Return images of some amplitudes and phases of frequencies, and the mean of each channel."""
    frequencies = torch.polar(torch.fft.rfft2(amplitudes).abs(), torch.fft.rfft2(phases).angle())
    frequencies[..., 0, 0] = torch.fft.rfft2(mean)[..., 0, 0]
    made: Tensor = torch.fft.irfft2(frequencies, s=tuple(mean.shape[-2:]))
    return made


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Blur along the last axis."""
    reach = min(round(3 * sigma), images.shape[-1] - 1)
    at = torch.arange(-reach, reach + 1, dtype=images.dtype)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    wide = functional.pad(images.flatten(0, -2)[:, None], (reach, reach), mode="reflect")
    made: Tensor = functional.conv1d(wide, (kernel / kernel.sum())[None, None]).reshape(images.shape)
    return made


def _moved(images: Tensor, zoom: Tensor, shifts: Tensor) -> Tensor:
    """Zoom images by factors (n,), and shift them by shares of half a side (n, 2), to the right and down."""
    affine = torch.zeros(len(images), 2, 3, dtype=images.dtype)
    affine[:, 0, 0] = affine[:, 1, 1] = 1 / zoom
    affine[:, :, 2] = -shifts
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
