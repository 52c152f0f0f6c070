"""A training that can be stopped at any step and goes on from its last state, with the same result.

The order of the images and every random choice follow from the seed and the number of the step, and the state is written every
minute. What it writes carries seals; nothing else in its folder is replaced.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import cos, pi
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from subspect.giving.answers import Answers
from subspect.giving.settings import Settings
from subspect.ground.errors import SubspectError, some
from subspect.ground.files import atomic, check_free
from subspect.ground.progress import progress
from subspect.ground.seals import is_sealed, read_tensors, tensor_bytes, write_json
from subspect.ground.text import counted
from subspect.images.batches import Batch
from subspect.images.inputs import Inputs, Pixels, called, moved, shape_of
from subspect.images.sources import Images
from subspect.networks.finding import Head, logits_of
from subspect.studies.parts import hashed
from subspect.swapping.in_training import Swaps

log = logging.getLogger("subspect")


_FALL = 0.1  # of the accuracy on held-out images, beyond which a training is said to have failed
_RISE = 50  # steps, at most, over which the rate rises
_EVERY = 60  # seconds between two states
_STATE, BEST, LOG = "state.safetensors", "best.safetensors", "log.json"
_MADE_BY = {"made_by": "subspect retrain"}


@dataclass(frozen=True)
class Epoch:
    """One pass over the images.

    Attributes:
        loss: mean cross-entropy on the images that were learned from, in nats; with a teacher, how far the features are too.
        held_out: accuracy on those that were held out; with the cues swapped that are to be done without.

    Example:
        >>> trained = decomposition.retrain(
        ...     network, "images/train", "retrained", settings={"epochs": 1}, control=False, show_progress=False
        ... )
        >>> len(trained.retrained.epochs)
        1
    """

    loss: float
    held_out: float


@dataclass(frozen=True, eq=False)
class Trained:
    """A network that was trained further.

    Attributes:
        model: as it was after its best epoch, with the head that it was trained with.
        path: a safetensors file of that network in the form of the one given: a decomposed head is written as a dense one
            with zeros, so that it loads wherever the old weights did.
        epochs: one after the other.
        images: number of held-out images.
        start: accuracy on the held-out images before the first; no rival to the epochs, as the network may have learned from
            these images earlier, but where it learns from a teacher.
        best: number of the best epoch, from 1; 0 where none is better than the start, and the network is as it was.

    Example:
        >>> trained = decomposition.retrain(
        ...     network, "images/train", "retrained", settings={"epochs": 1}, control=False, show_progress=False
        ... ).retrained
        >>> trained.path.suffix, trained.best
        ('.safetensors', 1)
    """

    model: nn.Module
    path: Path
    epochs: tuple[Epoch, ...]
    images: int
    start: float
    best: int

    def to_json(self) -> dict[str, Any]:
        """Return all but the model as JSON values."""
        epochs = [asdict(epoch) for epoch in self.epochs]
        about = {"images": self.images, "start": self.start, "best": self.best}
        return {"path": str(self.path), "epochs": epochs, **about}


def split(
    source: Images, positions: Sequence[int], settings: Settings
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return which of some images of a source are learned from, and which are held out.

    Raises:
        SubspectError: they are too few.
    """
    places = np.asarray(positions, np.int64)
    at = hashed([source.id(int(position)) for position in places]) < 1 - settings.held_out
    kept, held = places[at], places[~at]
    if len(kept) < settings.batch_size or not len(held):
        raise SubspectError(
            f"{counted(len(places), 'image is', 'images are')} too few: {len(kept)} to learn from, in batches of "
            f"{settings.batch_size}, and "
            f"{len(held)} held out; give more, or a smaller batch_size (--batch-size)"
        )
    return kept, held


def refuse_study(folder: Path) -> None:
    """Keep a training out of a study's folder.

    Raises:
        SubspectError: the folder lies in one.
    """
    if any((place / "study.json").exists() for place in (folder, *folder.absolute().parents)):
        raise SubspectError(f"{folder} lies in a study; choose another folder for the training")


def right(
    model: nn.Module,
    head: Head,
    read: Iterator[Batch],
    advance: Callable[[int], object] = lambda _: None,
    swaps: Swaps | None = None,
) -> tuple[int, int]:
    """Return on how many images the largest logit is the label's, and their number; the model is left in evaluation mode.

    Cues are swapped in every image, in the same way each time.
    """
    hits = images = 0
    place = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        for number, batch in enumerate(read):
            if batch.pixels is not None:
                pixels = moved(batch.pixels, place)
                if swaps is not None:
                    pixels = swaps(pixels, torch.from_numpy(batch.labels), number, stay=False)
                logits = logits_of(called(model, pixels), head, len(batch.labels))
                said = logits.argmax(dim=1).cpu().numpy()
                hits, images = hits + int((said == batch.labels).sum()), images + len(said)
            advance(len(batch.labels) + len(batch.failed))
    return hits, images


class Run:
    """A training that can be stopped at any step and goes on from its last state."""

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        layers: Sequence[str],
        settings: Settings,
        folder: Path,
        about: str,
        swaps: Swaps | None = None,
        teacher: Answers | None = None,
    ) -> None:
        self.model, self.settings, self.folder, self.about = model, settings, folder, about
        self.teacher = teacher  # what it says is learned, in place of the labels
        self.head, self.layers, self.swaps = head, layers, swaps
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not layers or any(name.startswith(f"{layer}.") for layer in layers))
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not parameters:
            raise SubspectError(f"nothing would learn: the layers {some(layers)} have no parameters; name others")
        rate, decay = settings.rate or 0.0, settings.weight_decay
        self.optimiser: torch.optim.Optimizer = (
            torch.optim.SGD(parameters, rate, momentum=0.9, nesterov=True, weight_decay=decay)
            if settings.optimiser == "sgd"
            else torch.optim.AdamW(parameters, rate, weight_decay=decay)
        )
        self.step, self.loss, self.start, self.best = 0, 0.0, float("nan"), 0
        self.epochs: list[Epoch] = []
        self.kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self._load()

    def train(
        self,
        kept: np.ndarray[Any, Any],
        held: np.ndarray[Any, Any],
        read: Callable[[Sequence[Sequence[int]]], Iterator[Batch]],
        show: bool,
    ) -> None:
        """Take all steps that are left."""
        size = self.settings.batch_size
        if self.swaps is not None:  # cues are swapped within a batch, which must hold several classes
            held = np.random.default_rng([self.settings.seed, 4]).permutation(held)

        def share() -> float:
            return _share(*right(self.model, self.head, self._asked(read(cut(held, size))), swaps=self.swaps))

        steps = len(kept) // size  # what is left over takes its turn in another epoch
        total = steps * self.settings.epochs
        if np.isnan(self.start):
            self.start = share()
        saved = time.monotonic()
        place = next(self.model.parameters()).device
        with (
            progress("training", total, "steps", done=self.step, show=show) as advance,
            torch.random.fork_rng(),
        ):
            failed: dict[str, str] = {}
            while self.step < total:
                epoch, first = divmod(self.step, steps)
                order = np.random.default_rng([self.settings.seed, epoch]).permutation(kept)[: steps * size]
                self._modes()
                for batch in read(cut(order, size)[first:]):
                    failed |= dict(batch.failed)
                    if batch.pixels is not None:
                        torch.manual_seed(self.settings.seed * 1_000_003 + self.step)
                        self._learn(moved(batch.pixels, place), torch.from_numpy(batch.labels).to(place), total)
                    self.step += 1
                    advance(1)
                    if time.monotonic() - saved > _EVERY:
                        self._save()
                        saved = time.monotonic()
                # a network that learns from its labels may have learned from the held-out images earlier: its start is no rival
                start = self.start if self.teacher is not None else -1.0
                best = max([epoch.held_out for epoch in self.epochs], default=-1.0)
                self.epochs.append(Epoch(self.loss / steps, now := share()))
                self.loss = 0.0
                # of equals the first is kept; with a teacher, or where cues are swapped, the last: it has learned for longest
                last = self.teacher is not None or self.swaps is not None
                if now > start and (now > best or (last and now == best)):
                    self.best = len(self.epochs)
                    self.kept = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
                self._save()
        if failed:
            log.warning(
                "%s: %d of %d images could not be used, and were left out: %s",
                *(self.folder, len(failed), len(kept), some([f"{id} ({reason})" for id, reason in failed.items()])),
            )

    def finish(self, plain: Callable[[nn.Module], nn.Module], held: int) -> Trained:
        """Take the best epoch's weights, and write them in the form of the network that was given."""
        self.model.load_state_dict(self.kept)
        self.model.eval().requires_grad_(False)
        path = self.folder / BEST
        with atomic(path, is_sealed) as file:
            file.write(tensor_bytes(_copied(plain(self.model).state_dict()), _MADE_BY))
        best = self.epochs[self.best - 1].held_out if self.best else self.start
        if not self.best:
            log.warning(
                "%s: on %d held-out images no epoch is nearer to the teacher than the network was before (%.1f %%), so it "
                "stays as it was; more epochs, more images or another rate than %g may help, in a new folder",
                *(self.folder, held, 100 * self.start, self.settings.rate),
            )
        if best < self.start - _FALL:
            log.warning(
                "%s: accuracy on held-out images fell from %.1f to %.1f %%; a smaller rate than %g may help, in a new folder",
                *(self.folder, 100 * self.start, 100 * best, self.settings.rate),
            )
        made = Trained(self.model, path, tuple(self.epochs), held, self.start, self.best)
        write_json(self.folder / LOG, made.to_json())
        return made

    def _learn(self, pixels: Pixels, labels: Tensor, total: int) -> None:
        risen = min(1.0, (self.step + 1) / min(_RISE, total / 10))
        for group in self.optimiser.param_groups:
            group["lr"] = (self.settings.rate or 0.0) * risen * (1 + cos(pi * self.step / total)) / 2
        if self.swaps is not None:
            pixels = self.swaps(pixels, labels, self.step)
        varied = _varied(pixels, self.settings) if self.settings.flip or self.settings.shift else pixels
        if self.teacher is None:
            loss = F.cross_entropy(logits_of(called(self.model, varied), self.head, len(labels)), labels)
        else:
            loss = self.teacher.missed(self.model, varied)
        if not torch.isfinite(loss):
            raise SubspectError(
                f"the loss is {loss.item()} at step {self.step}; a smaller rate than {self.settings.rate:g} may help, in a new "
                "folder"
            )
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.loss += loss.item()

    def _asked(self, read: Iterator[Batch]) -> Iterator[Batch]:
        """Put what the teacher says in the place of labels, if there is one."""
        place = next(self.model.parameters()).device
        for batch in read:
            if self.teacher is not None and batch.pixels is not None:
                said = self.teacher(moved(batch.pixels, place)).logits.argmax(dim=1)
                batch = replace(batch, labels=said.cpu().numpy())
            yield batch

    def _modes(self) -> None:
        """Put into training mode what learns; elsewhere batch norm keeps its averages, and dropout stays off."""
        for path, module in self.model.named_modules():
            module.training = not self.layers or any(f"{path}.".startswith(f"{layer}.") for layer in self.layers)

    def _save(self) -> None:
        tensors = _copied(self.model.state_dict(), "model.") | _copied(self.kept, "kept.")
        tensors |= _copied(self.teacher.state() if self.teacher is not None else {}, "teacher.")
        plain: dict[str, dict[str, Any]] = {}  # what the optimiser keeps of a parameter that is no tensor
        for place, kept in self.optimiser.state_dict()["state"].items():
            ours = {name: value for name, value in kept.items() if isinstance(value, Tensor)}
            tensors |= _copied(ours, f"optimiser.{place}.")
            plain[str(place)] = {name: value for name, value in kept.items() if name not in ours}
        header = {
            **_MADE_BY,
            "about": self.about,
            "optimiser": plain,
            "step": self.step,
            "loss": self.loss,
            "start": self.start,
            "best": self.best,
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }
        with atomic(self.folder / _STATE, is_sealed) as file:
            file.write(tensor_bytes(tensors, header))

    def _load(self) -> None:
        path = self.folder / _STATE
        if not os.path.lexists(path):
            return
        check_free(path, lambda _: True)  # a link or a folder is no state
        try:
            tensors, state = read_tensors(path, "a state")
            about, epochs = state["about"], [Epoch(**epoch) for epoch in state["epochs"]]
            numbers = tuple(state[name] for name in ("step", "loss", "start", "best"))
            if {name: state.get(name) for name in _MADE_BY} != _MADE_BY:
                raise SubspectError(f"{path} is no state of a training")
            optimiser: dict[int, dict[str, Any]] = {
                int(place): dict(kept) for place, kept in state["optimiser"].items()
            }
            for name, tensor in _within(tensors, "optimiser.").items():
                place, _, key = name.partition(".")
                optimiser[int(place)][key] = tensor
        except (SubspectError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise SubspectError(f"{path} is damaged, or no state of a training; delete it to start again") from error
        if about != self.about:
            _refuse_other(self.folder, json.loads(about), json.loads(self.about))
        log.info("%s: going on from step %d", self.folder, numbers[0])
        self.model.load_state_dict(_within(tensors, "model."))
        # rates and the like follow from the settings, which are the same
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": optimiser})
        if self.teacher is not None:
            self.teacher.load(_within(tensors, "teacher."))
        self.step, self.loss, self.start, self.best = numbers
        self.kept, self.epochs = _within(tensors, "kept."), epochs


def check_state(folder: Path, about: Mapping[str, Any]) -> None:
    """Check that what a folder holds of a training, if anything, can be gone on with, as far as the new one is known.

    Raises:
        SubspectError: it is of another training; what differs is said. What is damaged is told when it is read.
    """
    path = folder / _STATE
    if not path.is_file() or path.is_symlink():
        return
    try:
        old = json.loads(read_tensors(path, "a state")[1]["about"])
    except (SubspectError, KeyError, TypeError, ValueError):
        return
    new = json.loads(json.dumps(about))
    if any(old.get(name) != one for name, one in new.items()):
        _refuse_other(folder, old, {**old, **new})


def _refuse_other(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> NoReturn:
    differ = [name for name in dict.fromkeys([*new, *old]) if old.get(name) != new.get(name)]
    differ = ["cues to do without (--without-cue)" if name == "without_cues" else name for name in differ]
    raise SubspectError(
        f"{folder} holds a training with other {some(differ)}; choose another folder, or delete {_STATE} in it to train anew"
    )


def _copied(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Return tensors as a file takes them: on the CPU, contiguous, none sharing memory with another."""
    return {
        f"{prefix}{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _within(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _share(hits: int, images: int) -> float:
    return hits / max(images, 1)


def _varied(pixels: Pixels, settings: Settings) -> Tensor:
    """Mirror and move images (n, channels, height, width) at random.

    Raises:
        SubspectError: what the network takes are no pictures, in which left and right, and up and down, mean something.
    """
    if isinstance(pixels, Inputs) or pixels.ndim != 4:
        raise SubspectError(
            f"flip and shift vary pictures (channels, height, width); these images are {shape_of(pixels[0])}: train "
            "without (flip=False, shift=0)"
        )
    if settings.flip:
        mirrored = torch.rand(len(pixels), device=pixels.device) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    if settings.shift:
        most, (height, width) = settings.shift, pixels.shape[-2:]
        wide = F.pad(pixels, (most,) * 4, mode="replicate")
        down, right = torch.randint(0, 2 * most + 1, (2, len(pixels))).tolist()
        moved = [one[:, y : y + height, x : x + width] for one, y, x in zip(wide, down, right, strict=True)]
        pixels = torch.stack(moved)
    return pixels


def cut(positions: np.ndarray[Any, Any], size: int) -> list[list[int]]:
    """Cut positions into batches."""
    return [positions[start : start + size].tolist() for start in range(0, len(positions), size)]
