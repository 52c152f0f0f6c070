"""Hand the decomposed network on, as a file that runs without subspect.

- ``onnx``: by PyTorch's dynamo exporter, for any batch. Where classes are many and features few, the head gathers the features
  of each class, as columns, and multiplies; else it is a dense layer with zeros, which ONNX Runtime does faster.
- ``torch``: a ``torch.export`` program, for any batch; ``torch.export.load(path).module()`` runs it.
- ``safetensors``: the decomposition alone: supports, weights, biases, names.
- ``hf``: a folder of Hugging Face's with a model card, of a network of transformers; sent to the hub only if it is asked for.

A file takes its place only after it was read back and run on real images, one and seven at a time, and said what the decomposed
network says in PyTorch. Names and preprocessing travel along: what goes in are images prepared by it, (n, channels, height,
width) float32, or whatever (n, …) the network was given ready, called ``pixels``; what comes out is called ``logits``.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from subspect.giving.formats import kind_of, made_as, onnx_head
from subspect.giving.hf_folder import check_repository, check_transformers, push, write_folder
from subspect.giving.options import FOLDER, FORMATS, OLDEST, OPSET, Format
from subspect.giving.timing import BATCHES, Ratio, ratios
from subspect.ground.errors import MissingExtra, SubspectError, some
from subspect.ground.files import atomic
from subspect.ground.folders import check_free_place
from subspect.ground.results import Result
from subspect.ground.tables import Table
from subspect.ground.text import counted
from subspect.heads.decomposition import Decomposition
from subspect.heads.feature_names import names_json
from subspect.heads.head import MANY
from subspect.heads.placing import decomposed_layers
from subspect.images.inputs import Inputs
from subspect.images.opening import ImageSource
from subspect.networks.finding import Head, logits_of
from subspect.networks.network import Network
from subspect.networks.summands import with_layers
from subspect.studies.decompositions import DecompositionLike, opened
from subspect.studies.same_network import head_of, real_images, refuse_features_alone, same_network
from subspect.studies.study import Study, StudyLike

log = logging.getLogger("subspect")


TOLERANCE = 1e-4  #: by which logits may differ from PyTorch's; where some are larger than 1, that share of the largest
_CHECKED = 64  # images that are looked for


@dataclass(frozen=True)
class FileCost:
    """What a file is and takes.

    Attributes:
        bytes: its size.
        seconds: images at a time → median time of a run on the CPU, by what the file is for: ONNX Runtime or PyTorch.

    Example:
        >>> cost = decomposition.export("small.onnx", network=network).decomposed
        >>> cost.bytes < 1_000_000
        True
    """

    bytes: int
    seconds: Mapping[int, float]


@dataclass(frozen=True)
class Exported(Result):
    """A file that was written.

    Attributes:
        path: where it is.
        format: "onnx", "torch", "safetensors" or "hf".
        decomposed: its cost.
        dense: that of the dense network in the same format; None for safetensors and hf.
        difference: the largest difference of a logit from PyTorch's; None for safetensors.
        kernel: how the head is computed: "gather", "dense" or, in torch.export programs, one of its kernels; None for
            safetensors.
        about: what travels along: names, preprocessing, where it comes from.
        times: images at a time → how long the decomposed network takes beside the dense one; empty for safetensors and hf.
        pushed: the address on the hub that it was sent to; None where it wasn't.
        called: what the network in it is called in tables.

    Example:
        >>> exported = decomposition.export("small.onnx", network=network)
        >>> exported.format
        'onnx'
        >>> exported.difference < 1e-3
        True
    """

    path: Path
    format: Format
    decomposed: FileCost
    dense: FileCost | None
    difference: float | None
    kernel: str | None
    about: Mapping[str, Any]
    times: Mapping[int, Ratio] = field(default_factory=dict)
    pushed: str | None = None
    called: str = "decomposed"

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**asdict(self), "path": str(self.path), "about": dict(self.about)}

    def _records(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for the dense file, where there is one, and one for the decomposed file."""
        costs = (("dense", self.dense), (self.called, self.decomposed))
        return [
            {"file": name, "bytes": cost.bytes, **{f"seconds_{batch}": value for batch, value in cost.seconds.items()}}
            for name, cost in costs
            if cost is not None
        ]

    def tables(self) -> list[Table]:
        """Return a table for the terminal: sizes and times before and after."""
        table = Table(title=str(self.path), title_justify="left", caption_justify="left")
        table.add_column("")
        for column in ("MB", *(f"{batch} image{'s' * (batch > 1)}, ms" for batch in self.decomposed.seconds)):
            table.add_column(column, justify="right")
        for name, cost in (("dense", self.dense), (self.called, self.decomposed)):
            if cost is not None:
                times = (f"{1000 * seconds:.3g}" for seconds in cost.seconds.values())
                size = cost.bytes / 1e6
                table.add_row(name, f"{size:.2f}" if size >= 1 else f"{size:.2g}", *times)
        if self.difference is not None:
            table.caption = self._checked
        return [table]

    @property
    def _checked(self) -> str:
        """Say how what was written was checked, and what it takes."""
        if self.format == FOLDER:
            return (
                f"read back by transformers; logits on real images differ from the decomposed network's by "
                f"{self.difference:.1e} at most; {f'pushed to {self.pushed}' if self.pushed else 'not pushed'}"
            )
        runs = "ONNX Runtime" if self.format == "onnx" else "torch.export"
        opset = f", opset {self.about['opset']}" if self.format == "onnx" else ""
        shares = (f"{batch} image{'s' * (batch > 1)} {ratio}" for batch, ratio in self.times.items())
        return (
            f"{runs} on the CPU{opset}, {counted(torch.get_num_threads(), 'thread', 'threads')}; head computed as: "
            f"{self.kernel}; logits on real "
            f"images differ from PyTorch's by {self.difference:.1e} at most; time as a share of dense, in brackets 95 % "
            f"intervals: {', '.join(shares)}"
        )


def export(
    study: StudyLike,
    decomposition: DecompositionLike,
    *,
    path: str | Path,
    network: Network | None = None,
    format: Format | None = None,
    images: ImageSource | None = None,
    opset: int = OPSET,
    push_to: str | None = None,
) -> Exported:
    """Write the decomposed network, or the decomposition alone, to a file, or a folder of Hugging Face's.

    Args:
        study: of the network.
        decomposition: of this study.
        path: the file, or the folder; it must not exist.
        network: that was observed; not needed for safetensors.
        format: told by the suffix of the path unless given; a folder of Hugging Face's is "hf".
        images: real images to check the file with (see `subspect.open_images`); those that were observed unless given.
        opset: of ONNX, 18 or later.
        push_to: with "hf", USER/NAME of a new repository on the hub, private, to send the folder to; nothing is sent unless
            given.

    Raises:
        SubspectError: a path that exists, an opset or a format that is none, another network, images that aren't there, a
            network that cannot be exported, or a file that says something else than PyTorch; nothing is written then.

    Example:
        >>> exported = subspect.export("study", "pursuit-k5", path="head.safetensors")
        >>> exported.format
        'safetensors'
    """
    study, decomposition = opened(study, decomposition)
    path = Path(path)
    form = check_path(path, format)
    check_push(form, push_to)
    if form == "onnx":
        _check_opset(opset)
    about = about_of(study, decomposition)
    if form == "safetensors":
        with atomic(path) as file:
            file.write(decomposition.to_bytes({"preprocessing": about["preprocessing"]}))
        return Exported(path, form, FileCost(path.stat().st_size, {}), None, None, None, about)
    refuse_features_alone(
        study, "there is no network to put the decomposed head into; a .safetensors holds the head by itself"
    )
    if network is None:
        raise SubspectError(
            f"{form!r} takes the network itself, to put the decomposed head into; give it: network=… in Python, "
            "--network on the command line"
        )
    tell_unseen(decomposition)
    if form == FOLDER:
        check_transformers(network.model)
    same, head, pixels = exportable(study, network, images)
    if form == FOLDER:
        size, difference = write_folder(path, study, decomposition, same, head, pixels)
        address = push(path, push_to) if push_to is not None else None
        return Exported(path, form, FileCost(size, {}), None, difference, "dense", about, pushed=address)
    small = decomposition.apply(same.model)
    return write(path, form, small, same.model, head, pixels, about, opset)


def check_push(format: Format, push_to: str | None) -> None:
    """Check what is to be sent to the hub, before the work.

    Raises:
        SubspectError: another format, or no name of a repository.
    """
    if push_to is not None:
        if format != FOLDER:
            raise SubspectError(f"only a folder of Hugging Face's is pushed to the hub: format 'hf'; got {format!r}")
        check_repository(push_to)


def check_path(path: Path, format: str | None, formats: Mapping[Format, str] = FORMATS) -> Format:
    """Return the format of a file to be written.

    Raises:
        SubspectError: it exists, its folder cannot be written to, or its format is none that we know.
    """
    if format == FOLDER and formats is FORMATS:
        check_free_place(path)
        return FOLDER
    known = {suffix: name for name, suffix in FORMATS.items()}
    told = known.get(path.suffix.lower())
    named = cast(Format | None, format) if format is not None else told
    if named is None or named not in formats:
        said = f"format {format!r}" if format is not None else f"a file called {path.name!r}"
        raise SubspectError(
            f"cannot export to {said}; formats are {', '.join(f'{name} ({suffix})' for name, suffix in formats.items())}"
            + (", and hf, a folder of Hugging Face's (format='hf', --format hf)" if formats is FORMATS else "")
        )
    if told is not None and told != named:
        raise SubspectError(f"a file called {path.name!r} is no {named!r}; call it {path.stem}{FORMATS[named]}")
    check_free_place(path)
    if named == "onnx":
        check_onnx()
    return named


def check_onnx() -> None:
    """Import what writes and runs ONNX.

    Raises:
        MissingExtra: it isn't installed.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtra(package, "export", "writing ONNX") from error


def _check_opset(opset: int) -> None:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not isinstance(opset, int) or not OLDEST <= opset <= newest:
        raise SubspectError(f"an ONNX opset must be a whole number from {OLDEST} to {newest}; got {opset!r}")


def tell_unseen(decomposition: Decomposition, labels: Sequence[int] | None = None) -> None:
    """Warn of classes that keep all features, so that little gets smaller."""
    sizes, d = decomposition.supports.sizes, decomposition.supports.n_features
    unseen = [label for label in decomposition.unseen if sizes[label] == d and (labels is None or label in labels)]
    if unseen:
        log.warning(
            "%d class%s had no images when features were chosen, and keep%s all of them, so that files and networks get hardly "
            "smaller: %s",
            len(unseen),
            *(("es", "") if len(unseen) > 1 else ("", "s")),
            some(decomposition.class_names[label] for label in unseen),
        )


def about_of(study: Study, decomposition: Decomposition) -> dict[str, Any]:
    """Return what travels along with a network."""
    return {
        "class_names": list(study.identity.class_names),
        "preprocessing": dict(study.identity.preprocessing),
        "network": study.identity.network,
        "weights": study.identity.fingerprint,
        "decomposition": decomposition.name,
        "feature_names": names_json(decomposition.names_of()),
    }


def exportable(study: Study, network: Network, images: ImageSource | None = None) -> tuple[Network, Head, Tensor]:
    """Return the network of a study, its head, and seven real images as it takes them.

    Raises:
        SubspectError: another network, images that aren't there, a head that isn't the network's own output, or weights that
            aren't float32.
    """
    same = same_network(study, network)
    if other := {str(one.dtype) for one in same.model.parameters() if one.is_floating_point()} - {"torch.float32"}:
        raise SubspectError(
            f"the network has weights of {some(sorted(other))}, and files and smaller networks are made of torch.float32; "
            "observe model.float() in a study of its own"
        )
    pixels = real_images(study, same, max(BATCHES), images)
    if isinstance(pixels, Inputs):
        raise SubspectError(
            f"the network takes several tensors by name ({some(pixels.tensors)}), and files and smaller networks are made of "
            "those that take one; decomposition.apply(model) returns a copy of the network with the decomposed head"
        )
    head = head_of(same, pixels)
    if not head.exact:
        raise SubspectError(
            f"the head {head.name!r} is not the network's own output, so the network cannot be exported"
        )
    return same, head, pixels


def write(
    path: Path,
    format: Format,
    small: nn.Module,
    dense: nn.Module,
    head: Head,
    pixels: Tensor,
    about: Mapping[str, Any],
    opset: int = OPSET,
    batches: Sequence[int] = BATCHES,
    called: str = "decomposed",
) -> Exported:
    """Write a network with a decomposed head, once what was written says the same as it.

    Args:
        path: the file.
        format: "onnx" or "torch".
        small: the network with the decomposed head, under the name that the head has.
        dense: the network as it was, for comparison.
        head: of both.
        pixels: (n, …) real images, as the network takes them, as many as the largest batch.
        about: what travels along.
        opset: of ONNX.
        batches: images at a time, when it is checked and timed.
        called: what the network is called.

    Raises:
        SubspectError: it cannot be exported, or says something else.
    """
    pixels = pixels.cpu()
    layers = dict(decomposed_layers(small, head.name))
    kinds = {kind_of(layer) if format == "onnx" else layer.kernel_for(MANY) for layer in layers.values()}
    kind = ", ".join(sorted(kinds))
    known = {**about, **({"opset": opset} if format == "onnx" else {})}
    makes = {name: lambda _, layer=layer: onnx_head(layer) for name, layer in layers.items()}
    given = with_layers(small, makes) if format == "onnx" else small
    ours, theirs, given = (_Logits(copy.deepcopy(model), head) for model in (small, dense, given))
    data, run = made_as(given, format, pixels, known, opset)
    dense_data, dense_run = made_as(theirs, format, pixels, known, opset)
    difference = 0.0
    with torch.inference_mode():
        for batch in batches:
            wanted = ours(pixels[:batch])
            apart = float((run(pixels[:batch]) - wanted).abs().max())
            if not apart <= TOLERANCE * max(1.0, float(wanted.abs().max())):
                raise SubspectError(
                    f"the exported network differs from the one in PyTorch by {apart:.2e} in a logit, on a batch of "
                    f"{batch}; more "
                    f"than {TOLERANCE:g}; nothing was written. Does it hold something random, or that depends on the batch?"
                )
            difference = max(difference, apart)
        times = ratios(dense_run, run, pixels, batches=batches)
    cost = FileCost(len(data), {batch: ratio.small for batch, ratio in times.items()})
    dense_cost = FileCost(len(dense_data), {batch: ratio.dense for batch, ratio in times.items()})
    with atomic(path) as file:
        file.write(data)
    return Exported(path, format, cost, dense_cost, difference, kind, known, times, called=called)


class _Logits(nn.Module):
    """A network that returns its logits (n, C) alone, on the CPU in float32."""

    def __init__(self, model: nn.Module, head: Head) -> None:
        super().__init__()
        self.model, self.head = model, head
        self.cpu().float().eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        return logits_of(self.model(pixels), self.head, pixels.shape[0])
