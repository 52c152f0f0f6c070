"""Batches of images through the network, and what a study keeps of them.

A batch that the device has no memory for is halved until its parts fit, and so are those that follow: how images are cut into
batches and shards, which is stored, stays. Images whose features are NaN or infinite can't be used, and are listed like those
that can't be decoded.
"""

from __future__ import annotations

import logging
import re

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from subspect.ground.errors import SubspectError
from subspect.images.batches import Batch
from subspect.images.inputs import Pixels, shape_of, split
from subspect.networks.layers import watching
from subspect.networks.network import Network
from subspect.studies.manifests import SetManifest
from subspect.studies.shards import Chunk

log = logging.getLogger("subspect")

_MEMORY = re.compile("out of memory|can't allocate memory", re.IGNORECASE)  # PyTorch's words, of GPUs and of the CPU
_REASON = "its features are NaN or infinite"
_Part = tuple[Tensor, Tensor, dict[str, Tensor]]  # features, predictions, channels of each layer


class Runner:
    """Runs batches of an image set through a network.

    Args:
        network: with its head.
        manifest: of the image set: the batch size, and the layers to watch.
    """

    def __init__(self, network: Network, manifest: SetManifest) -> None:
        self.network, self.layers, self.size = network, dict(manifest.layers), manifest.batch_size

    def __call__(self, batch: Batch) -> tuple[Chunk, list[tuple[str, str]]]:
        """Return what is kept of a batch, and the id and reason for each of its images that couldn't be used.

        Raises:
            SubspectError: the device has no memory for one image alone.
        """
        features, predictions = [torch.empty(0, self.network.head.n_features)], [torch.empty(0, dtype=torch.int64)]
        layers = {name: [torch.empty(0, width)] for name, width in self.layers.items()}
        for x, said, watched in [] if batch.pixels is None else self._run(batch.pixels):
            features.append(x)
            predictions.append(said)
            for name, parts in layers.items():
                parts.append(watched[name])
        chunk = Chunk(
            torch.cat(features).numpy(),
            batch.labels,
            torch.cat(predictions).numpy(),
            batch.ids,
            {name: torch.cat(parts).numpy() for name, parts in layers.items()},
            batch.digests,
        )
        finite = np.all([np.isfinite(x).all(axis=1) for x in (chunk.features, *chunk.layers.values())], axis=0)
        failed = [(id, _REASON) for id, fine in zip(batch.ids, finite.tolist(), strict=True) if not fine]
        return (chunk.at(finite) if failed else chunk), [*batch.failed, *failed]

    def among_others(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Return features of the first image, (1, d), in a batch of the second alone; (0, d) where batches are of one."""
        first = None if batch.pixels is None else batch.pixels[: self.size]
        if first is None or len(first) < 2:
            return np.empty((0, self.network.head.n_features), np.float32)
        x, _ = self.network.read(first[[0] + [1] * (len(first) - 1)])
        found: npt.NDArray[np.float32] = x[:1].float().cpu().numpy()
        return found

    def _run(self, pixels: Pixels) -> list[_Part]:
        done: list[_Part] = []
        rest = pixels
        with watching(self.network.model, tuple(self.layers)) as said:
            while len(rest):
                part = next(split(rest, self.size))
                try:
                    x, logits = self.network.read(part)
                    watched = {name: said[name].cpu() for name in self.layers}
                    done.append((x.cpu(), logits.argmax(dim=1).cpu(), watched))
                except RuntimeError as error:  # torch.OutOfMemoryError is one
                    if _MEMORY.search(str(error)) is None:
                        raise
                    self._halve(part, error)
                    continue
                rest = rest[len(part) :]
        return done

    def _halve(self, part: Pixels, error: RuntimeError) -> None:
        """Take half as many images at once from now on.

        Raises:
            SubspectError: it was one image.
        """
        if len(part) == 1:
            raise SubspectError(
                f"out of memory on one image alone, {shape_of(part)}: take smaller images (--resize, --crop), or another "
                f"device (--device): {str(error).strip().splitlines()[0]}"
            ) from error
        self.size = (len(part) + 1) // 2
        log.warning(
            "out of memory on %d images at once: from now on the network gets %d; what is stored is cut as before",
            len(part),
            self.size,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
