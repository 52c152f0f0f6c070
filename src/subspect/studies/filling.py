"""Filling shards: images are read, run through the network, and what is kept of them is written or handed back.

Another process writes a shard itself where it sees the study's folder, and all of the shard's images could be used; else it
hands back what the shard is to hold, since how many images may fail is decided where all are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from subspect.ground.addresses import described
from subspect.ground.engines import Remembered, elsewhere, on_engine, on_gpu
from subspect.ground.files import is_file
from subspect.ground.folders import marked
from subspect.ground.progress import progress
from subspect.images.batches import Batch, batches, lost_workers
from subspect.images.sources import ClassMatch, Images
from subspect.networks.network import Network
from subspect.studies.image_set import ImageSet
from subspect.studies.manifests import SetManifest
from subspect.studies.running import Runner
from subspect.studies.shards import Chunk, Entry, joined, shard_name
from subspect.studies.summed import Sums
from subspect.studies.summing import Summing, Totals


@dataclass(frozen=True)
class Filled:
    """A shard: what it is to hold, or what the manifest says of it if it is written; images that couldn't be used; and what
    its images sum up to, where statistics are kept."""

    chunk: Chunk | None
    entry: Entry | None
    failed: list[tuple[str, str]]
    sums: Sums | None = None


class Filling(Remembered):
    """Fills shards of an image set, as a work.

    Args:
        network: with its head.
        source: the images.
        match: how labels become classes.
        image_set: begun.
        workers: processes that read images.
        device: where the network runs.
        advance: called with the number of images that ran, where the work is done in this process.
        mark: a file in the image set's folder, by which others know that they see it.
        summing: how images are summed, where statistics are kept of them.
    """

    def __init__(
        self,
        network: Network,
        source: Images,
        match: ClassMatch,
        image_set: ImageSet,
        workers: int,
        device: str | torch.device | None,
        advance: Callable[[int], object],
        mark: str,
        summing: Summing | None = None,
    ) -> None:
        self.network, self.source, self.match, self.image_set = network, source, match, image_set
        self.workers, self.device, self.advance, self.mark = workers, device, advance, mark
        self.summing = summing
        self.away = False  # whether this is another process than the one that asks
        self.shared = False  # whether it sees the image set for sure, since that lies at an address

    @property
    def gpu(self) -> bool:
        """Whether it needs a GPU."""
        return on_gpu(self.device)

    def described(self) -> dict[str, Any]:
        """Return it for another process, which tells nobody how far it is."""
        shared = described(self.image_set.folder) is not None
        return {**super().described(), "advance": _nobody, "away": True, "shared": shared}

    def __call__(self, pieces: Iterable[int]) -> Iterator[Filled]:
        """Fill some shards, those that are there already left out."""
        shards = list(pieces)
        seen = self.shared or (self.away and is_file(self.image_set.folder / self.mark))
        there = {index for index in shards if seen and is_file(self.image_set.folder / shard_name(index))}
        there = there if self.summing is None else set()  # whose sums nobody has
        cuts = {index: cuts_of(self.image_set.manifest, index) for index in shards if index not in there}
        positions = [positions for shard in cuts.values() for positions in shard]
        if self.away:
            self.network.stay(self.device)
        with lost_workers(), self.network.running():
            read = batches(self.source, self.network.preprocessing, self.match, positions, self.workers)
            run = Runner(self.network, self.image_set.manifest)
            for index in shards:
                if index in there:  # by an actor that was lost before it could say so
                    yield Filled(None, None, self.image_set.shard(index)[1])
                    continue
                yield self._filled(index, zip(cuts[index], read, strict=False), run, seen)

    def _filled(self, index: int, given: Iterable[tuple[range, Batch]], run: Runner, seen: bool) -> Filled:
        """Return what a shard is to hold, or write it; nothing of it stays here, since its sums may be large."""
        chunks, failed = [], []
        taking = None if self.summing is None else self.summing.begin()
        for cut, batch in given:
            chunk, unusable = run(batch)
            chunks.append(chunk if taking is None else taking.take(chunk))
            failed += unusable
            self.advance(len(cut))
        sums = None if taking is None else taking.all()
        if not seen or failed:
            return Filled(joined(chunks), None, failed, sums)
        self.image_set.write(index, joined(chunks), [])
        return Filled(None, self.image_set.entries[index], [], sums)


def fill(
    network: Network,
    source: Images,
    match: ClassMatch,
    image_set: ImageSet,
    own: range,
    *,
    workers: int,
    device: str | torch.device | None,
    check: Callable[[list[tuple[str, str]]], None],
    show: bool,
    totals: Totals | None = None,
) -> None:
    """Write those of some shards that are missing.

    Args:
        network: with its head; it runs where it is now.
        source: the images.
        match: how labels become classes.
        image_set: begun.
        own: the shards.
        workers: processes that read images.
        device: where the network runs in other processes.
        check: refuses too many images that couldn't be used.
        show: whether to draw a progress bar.
        totals: of the images' statistics, where such are kept.
    """
    manifest, done = image_set.manifest, set((image_set if totals is None else totals).done).intersection(own)
    failed = [failure for index in done for failure in image_set.shard(index)[1]]
    check(failed)
    left = [index for index in own if index not in done]
    images, there = positions_in(manifest, own), positions_in(manifest, done)
    bar = progress(image_set.name, images, "images", done=there, show=show)
    with bar as advance, marked(image_set.folder) if elsewhere() else nullcontext("") as mark:
        summing = None if totals is None else totals.summing
        work = Filling(network, source, match, image_set, workers, device, advance, mark, summing)
        for index, filled in on_engine(work, left):
            check(failed := failed + filled.failed)
            if filled.chunk is not None:
                image_set.write(index, filled.chunk, filled.failed)
            elif filled.entry is not None:
                image_set.entries[index] = filled.entry
            if totals is not None and filled.sums is not None:
                totals.add(index, filled.sums)
            del filled  # before what is summed so far takes as much again, as it is written
            if totals is not None:
                totals.keep()
            if elsewhere():
                advance(positions_in(manifest, [index]))


def cuts_of(manifest: SetManifest, shard: int) -> list[range]:
    """Cut a shard's positions into batches; always at the same places, so that a resumed run gives the same bytes."""
    first, end = manifest.ends(shard)
    return [range(start, min(start + manifest.batch_size, end)) for start in range(first, end, manifest.batch_size)]


def positions_in(manifest: SetManifest, shards: Iterable[int]) -> int:
    """Return how many images fall to some shards."""
    return sum(end - first for first, end in map(manifest.ends, shards))


def _nobody(_: int) -> None:
    """Tell nobody."""
