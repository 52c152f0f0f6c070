"""Cues swapped in the batches of a training, so that a whole network can't lean on them, and in those that it is judged on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from subspect.images.inputs import Pixels
from subspect.images.preprocessing import AnyPreprocessing
from subspect.swapping.cue import Cue, swapped
from subspect.swapping.partners import partners
from subspect.swapping.pixels import Tones, checked


class Swaps:
    """Swaps cues between the images of a batch, each with an image of another class.

    An image is swapped with the chance 1 − 1 / C, so that over the classes a cue says nothing of the label.

    Args:
        cues: swapped one after the other, with the same partner.
        preprocessing: of the network; None for images that are ready.
        n_classes: C.
        seed: chance follows from it and the number of the step.
    """

    def __init__(self, cues: Sequence[Cue], preprocessing: AnyPreprocessing | None, n_classes: int, seed: int) -> None:
        self.cues, self.preprocessing, self.n_classes, self.seed = cues, preprocessing, n_classes, seed

    def __call__(self, pixels: Pixels, labels: Tensor, step: int, stay: bool = True) -> Tensor:
        """Return a batch (n, channels, height, width) with its cues swapped; as it is where all images are of one class.

        Args:
            pixels: of the images.
            labels: (n,) their classes.
            step: its number.
            stay: whether some stay as they are; else all are swapped.

        Raises:
            SubspectError: the images are no pictures, or a cue failed.
        """
        given = checked(pixels)
        classes = labels.cpu().numpy()
        if len(np.unique(classes)) < 2:
            return given
        random = np.random.default_rng([self.seed, 3, step])
        tones = Tones.of(self.preprocessing, given.cpu())
        images = shown = tones.pictures(given.cpu())
        others = shown[torch.from_numpy(partners(classes, int(random.integers(2**31))))]
        for cue in self.cues:
            images = swapped(cue, images, others, random)
        left = torch.from_numpy(random.random(len(given)) < stay / self.n_classes)[:, None, None, None]
        return torch.where(left.to(given.device), given, tones.pixels(images).to(given.device, given.dtype))
