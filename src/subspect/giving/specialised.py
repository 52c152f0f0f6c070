"""A network for some classes: what it is, what it costs beside the dense one, and how often it is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from subspect.giving.export import Exported
from subspect.giving.timing import Ratio
from subspect.giving.training import Trained
from subspect.ground.errors import some
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.ground.text import counted
from subspect.heads.cost import NetworkSize
from subspect.measuring.fidelity import Estimate, percent


@dataclass(frozen=True, eq=False)
class Specialised(Result):
    """A network for some classes.

    Attributes:
        model: the small network; its head is a `DecomposedHead` under the old name, its outputs are ``classes``, in order.
        labels: (c,) which classes of the network these are.
        classes: their names.
        dense: the size of the network that was observed.
        rows: its size with these classes' rows of the head alone, which takes no method.
        small: that of the small one.
        removed: features that are no longer computed.
        stay: features that no class uses, and that are computed all the same.
        readers: names of layers besides the head that read their channels.
        why: why features that no class uses stay; empty where none do.
        difference: the largest difference of a logit from the decomposed network's, on real images; None within a budget,
            where it isn't to be none.
        times: images at a time → how long the small network takes beside the dense one; on the CPU, or where it lies.
        onnx: within a budget the same by ONNX Runtime; empty without it, or where the network can't be written for it.
        onnx_bytes: the sizes of the dense and the small network as ONNX files, where these were made.
        among: "dense", "decomposed", and within a budget "small, before recovery" (with what is left as it was, but for batch
            norm's averages and the scale of the logits), "small, before training" (with the head refitted), if it was trained,
            and "small" → accuracy on images of these classes, told among these classes; empty without labels.
        note: on which images.
        reason: why, within a budget, only channels go that nothing uses; empty where others do.
        file: the file that was written, if any.
        asked: within which budget, in words; empty without one.
        branches: how many residual branches were left out.
        size: height and width that the network makes images smaller to before its first layer; None where it doesn't.
        widths: layer → its channels before and after, of layers that were narrowed.
        trained: how it was trained, if it was; accuracies in it are shares of images on which it agrees with its
            teacher.

    Example:
        >>> small = decomposition.specialise(network, classes=["cat", "dog"], path="pets.onnx")
        >>> small.classes
        ('cat', 'dog')
    """

    model: nn.Module
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    dense: NetworkSize
    rows: NetworkSize
    small: NetworkSize
    removed: int
    stay: int
    readers: tuple[str, ...]
    why: str
    difference: float | None
    times: Mapping[int, Ratio]
    among: Mapping[str, Estimate] = field(default_factory=dict)
    note: str = ""
    reason: str = ""
    file: Exported | None = None
    asked: str = ""
    branches: int = 0
    size: tuple[int, int] | None = None
    widths: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    trained: Trained | None = None
    onnx: Mapping[int, Ratio] = field(default_factory=dict)
    onnx_bytes: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return all but the model as JSON values."""
        return {
            "labels": list(self.labels),
            "classes": list(self.classes),
            "dense": asdict(self.dense),
            "rows": asdict(self.rows),
            "small": asdict(self.small),
            "removed": self.removed,
            "stay": self.stay,
            "readers": list(self.readers),
            "why": self.why,
            "difference": self.difference,
            "times": {str(batch): asdict(ratio) for batch, ratio in self.times.items()},
            "among": {name: asdict(share) for name, share in self.among.items()},
            "note": self.note,
            "reason": self.reason,
            "file": self.file and self.file.to_json(),
            "asked": self.asked,
            "branches": self.branches,
            "size": self.size and list(self.size),
            "widths": {name: list(widths) for name, widths in self.widths.items()},
            "trained": self.trained and self.trained.to_json(),
            "onnx": {str(batch): asdict(ratio) for batch, ratio in self.onnx.items()},
            "onnx_bytes": self.onnx_bytes and list(self.onnx_bytes),
        }

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for the dense network, for it with these classes' rows alone, and for the small one."""
        sizes = (("dense", self.dense), ("dense, these classes", self.rows), ("small", self.small))
        return [{"network": name, **asdict(size)} for name, size in sizes]

    def tables(self) -> list[Table]:
        """Return tables for the terminal: size and time before and after, and of the file."""
        threads = counted(torch.get_num_threads(), "thread", "threads")
        caption = f"{self._taken_out}; times with {threads}, in brackets 95 % intervals"
        if self.stay:
            caption += (
                f". {counted(self.stay, 'feature that no class uses stays', 'features that no class uses stay')}, "
                f"{self.why}"
            )
        if self.among:
            said = ", ".join(f"{name} {percent(share)}" for name, share in self.among.items())
            caption += f". Accuracy among these classes, on {self.note}: {said}"
        if self.reason:
            caption += f". {self.reason}"
        count = counted(len(self.classes), "class", "classes")
        table = Table(title=f"{count}: {some(self.classes)}", caption=caption)
        table.title_justify = table.caption_justify = "left"
        fewer = self.rows != self.dense and not self.asked  # within a budget the head is the least of it
        for column in ("", "dense", *(["dense, these classes"] if fewer else []), "small", "share of dense"):
            table.add_column(column, justify="right" if column else "left", no_wrap=not column)
        for name in ("parameters", "multiplications", "features"):
            sizes = [getattr(one, name) for one in (self.dense, *([self.rows] if fewer else []), self.small)]
            table.add_row(name, *(f"{size:,}" for size in sizes), f"{sizes[-1] / sizes[0]:.3f}")
        empty = [""] if fewer else []
        if self.onnx_bytes is not None:
            dense, small = self.onnx_bytes
            table.add_row("bytes, as ONNX", f"{dense:,}", *empty, f"{small:,}", f"{small / dense:.3f}")
        for runtime, times in (("", self.times), (", ONNX Runtime", self.onnx)):
            for batch, ratio in times.items():
                before, after = (_milliseconds(seconds) for seconds in (ratio.dense, ratio.small))
                table.add_row(f"{counted(batch, 'image', 'images')}{runtime}", before, *empty, after, str(ratio))
        return [table, *(self.file.tables() if self.file is not None else [])]

    @property
    def _taken_out(self) -> str:
        """Say what the network lacks, and what that changes."""
        if self.difference is None:
            gone = counted(self.branches, "residual branch is", "residual branches are")
            narrower = counted(len(self.widths), "layer is", "layers are")
            pixels = "" if self.size is None else f", images are made {self.size[0]} × {self.size[1]} within"
            return (
                f"{self.asked}: {gone} left out, {narrower} narrower, {self.small.features} features are left{pixels}"
            )
        return (
            f"{counted(self.removed, 'feature is', 'features are')} no longer computed; logits on real images differ "
            f"from the decomposed network's by {self.difference:.1e} at most"
        )


def _milliseconds(seconds: float) -> str:
    """Return a time as text, to three digits."""
    return f"{1000 * seconds:,.0f} ms" if seconds >= 0.1 else f"{1000 * seconds:.3g} ms"
