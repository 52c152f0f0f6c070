"""What a study keeps beside a decomposition: ``FOLDER/NAME.safetensors``, of the decomposition of that name.

It counts for as long as the decomposition's head is the same; what is of another head, or of an older version of what is asked,
is as if it weren't there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from subspect.ground.errors import SubspectError, advice
from subspect.ground.files import atomic, is_file, refuse_links
from subspect.ground.seals import is_sealed, read_tensors, tensor_bytes
from subspect.heads.decomposition import Decomposition
from subspect.heads.names import check_name
from subspect.studies.decompositions import made_by
from subspect.studies.study import Study, writing


class OfAHead(Protocol):
    """Something that is known by the decomposed head that it is about."""

    @property
    def made_by(self) -> str:
        """The fingerprint of that head."""


T = TypeVar("T", bound=OfAHead)


@dataclass(frozen=True)
class KeptBeside(Generic[T]):
    """Files of one kind.

    Attributes:
        folder: in the study; also the command that makes them.
        what: one is, for messages.
        again: what to do where one is damaged, before the command.
        schema: goes up when what is asked is asked in another way.
        read: makes one of its tensors and its header.
    """

    folder: str
    what: str
    again: str
    schema: int
    read: Callable[[Mapping[str, Tensor], Mapping[str, Any], Path], T]

    def path(self, study: Study, name: str) -> Path:
        """Return where the one of the decomposition of a name is.

        Raises:
            SubspectError: a link is in the way.
        """
        refuse_links(study.path, self.folder)
        return study.path / self.folder / f"{check_name(name)}.safetensors"

    def keep(self, study: Study, name: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
        """Write one, in place of that of a decomposition of the same name.

        Raises:
            SubspectError: it cannot be written, or another file is there.
        """
        data = tensor_bytes(tensors, {"schema": self.schema, **header})
        with writing(study.path), atomic(self.path(study, name), is_sealed) as file:
            file.write(data)

    def of(self, study: Study, decomposition: Decomposition) -> T | None:
        """Return the one of a decomposition; None where there is none, or none of this very head.

        Raises:
            SubspectError: the file is damaged.
        """
        there = is_file(self.path(study, decomposition.name))
        found = self._found(study, decomposition.name) if there else None
        return found if found is not None and found.made_by == made_by(decomposition) else None

    def is_current(self, study: Study, name: str) -> bool:
        """Tell whether the one under a name is of the decomposition that has this name now.

        Raises:
            SubspectError: the file is damaged.
        """
        found = self._found(study, name)
        try:
            return found is not None and found.made_by == made_by(study[name])
        except SubspectError:  # there is none, or it is damaged itself
            return False

    def _found(self, study: Study, name: str) -> T | None:
        path = self.path(study, name)
        with advice(f"delete it, and {self.again}: subspect {self.folder} {study.path} --decomposition {name}"):
            tensors, values = read_tensors(path, self.what)
            return self.read(tensors, values, path) if values.get("schema") == self.schema else None
