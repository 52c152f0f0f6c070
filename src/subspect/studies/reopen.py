"""The images of a study, opened again: where they were when they were observed, or where the user says they are now.

A study may come from a stranger, and what is shown of its images ends in pages that one shares. So where the study itself
says where images are, a file is opened only below that folder, and shown only if its bytes are those that were observed:
whoever made the study had the picture already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from os import PathLike
from pathlib import Path, PurePosixPath

from subspect.ground.errors import SubspectError, Unusable
from subspect.images.decoding import decode_with_digest
from subspect.images.opening import ImageSource, open_images, reopened_images
from subspect.images.sources import ClassMatch, Example, Images, Picture
from subspect.studies.image_set import ImageSet


def open_again(source: ImageSource | None, image_set: ImageSet) -> Images | None:
    """Open the images that the user says were observed, in the column that they were in then; None if none are given."""
    if source is None:
        return None
    named = isinstance(source, str | PathLike) and image_set.manifest.image_column is not None
    return open_images(source, outside=True, image_column=image_set.manifest.image_column if named else None)


class Reopened(Images):
    """Some images of an image set.

    Args:
        image_set: observed to its end.
        ids: of its images.
        source: where the user says that they are now; unless given, the folder that the study says.
        digests: id → digest of images that are not among those stored.

    Attributes:
        changed: ids of images opened so far that are other files than those that were observed; known by `compare`.
        same: ids of those that are the same files.
    """

    kind, labelled = "study", False

    def __init__(
        self,
        image_set: ImageSet,
        ids: Sequence[str],
        source: Images | None = None,
        digests: Mapping[str, bytes | None] | None = None,
    ) -> None:
        self._ids, self._source, self.changed, self.same = list(ids), source, set[str](), set[str]()
        self._manifest = image_set.manifest
        self.ready = source is not None and source.ready
        wanted = set(self._ids)
        self._digests = {
            id: digest
            for chunk in image_set.chunks()
            for id, digest in zip(chunk.ids, chunk.digests, strict=False)
            if id in wanted and digest is not None
        }
        self._digests |= {id: digest for id, digest in (digests or {}).items() if id in wanted and digest is not None}

    def only(self, ids: Sequence[str]) -> Reopened:
        """Return some of these images, with what was learned of them."""
        made = copy(self)
        made._ids = list(ids)
        return made

    @property
    def place(self) -> str | None:
        """Where the images are."""
        return self._manifest.root if self._source is None else self._source.place

    def __len__(self) -> int:
        return len(self._ids)

    def id(self, index: int) -> str:
        """Return the id of the image at a position."""
        return self._ids[index]

    def read(self, index: int) -> Example:
        """Open the image at a position."""
        image, digest = self.given_with_digest(self._ids[index])
        return Example(image, None, digest)

    def digest(self, id: str) -> bytes | None:
        """Return the digest that an image had when it was observed, if that was kept."""
        return self._digests.get(id)

    def compare(self, id: str, digest: bytes | None) -> None:
        """Take in the digest of an image that was opened, as by another process."""
        known = self._digests.get(id)
        if known is not None and digest is not None:
            (self.same if digest == known else self.changed).add(id)

    def given_with_digest(self, id: str) -> tuple[Picture, bytes | None]:
        """Open the image of an id.

        Raises:
            Unusable: it is missing, cannot be decoded, or is another than the one that was observed.
        """
        known = self._digests.get(id)
        if self._source is not None:
            image, digest = self._source.given_with_digest(id)
            self.compare(id, digest)
            return image, digest
        if self._manifest.root is None:
            raise Unusable("it was in memory")
        place = self._place_of(id, self._manifest.root)
        if known is None:
            raise Unusable("no digest of it was kept; say where the images are: --images FOLDER")
        picture, digest = decode_with_digest(place) if isinstance(place, Path) else place.given_with_digest(id)
        if digest != known:
            raise Unusable("it is not the image that was observed")
        self.compare(id, digest)
        return picture, digest

    def _place_of(self, id: str, root: str) -> Images | Path:
        """Return where the study says an image is: in what a name opens, or a file below the folder."""
        if self._named is not None:
            return self._named
        path = PurePosixPath(id)
        if path.is_absolute() or ".." in path.parts or "\\" in id:
            raise Unusable("it lies outside the folder of its image set")
        return Path(root) / path

    @cached_property
    def _named(self) -> Images | None:
        """What a name opens; None for a folder of files."""
        assert self._manifest.root is not None
        try:
            return reopened_images(self._manifest.root, self._manifest.image_column)
        except SubspectError as error:
            raise Unusable(str(error)) from error

    def fingerprint(self, match: ClassMatch | None) -> str:
        """Not of use here: an image set's own is in its manifest."""
        raise NotImplementedError
