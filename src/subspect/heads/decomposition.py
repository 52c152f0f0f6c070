"""A decomposition: the features of every class, their weights and biases, and how they came to be.

It is saved as one safetensors file: the numbers as tensors, all else as JSON in the file's header. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from subspect.ground.errors import SubspectError, some
from subspect.ground.files import atomic, is_file
from subspect.ground.seals import read_tensors, tensor_bytes
from subspect.ground.text import counted, legible
from subspect.heads.feature_names import Names, names_json, occurring, shown
from subspect.heads.head import DecomposedHead
from subspect.heads.history import (
    Chosen,
    CurvePoint,
    Dropped,
    Part,
    Refitted,
    Settled,
    Step,
    history_json,
    read_curve,
    read_history,
)
from subspect.heads.names import check_name, class_index
from subspect.heads.placing import with_decomposed
from subspect.heads.questions import DecompositionQuestions
from subspect.heads.stored import SCHEMA, read_header, read_names, read_supports, read_ternary, read_trust
from subspect.heads.supports import Supports
from subspect.heads.ternary import Ternary
from subspect.heads.trusted import FeatureRow, Trusted
from subspect.networks.network import weights_fingerprint

if TYPE_CHECKING:
    from subspect.studies.study import Study


@dataclass(frozen=True, eq=False)
class Decomposition(DecompositionQuestions):
    """What remains of a head when each class keeps only its influential features.

    Attributes:
        name: what it is called in its study.
        supports: the features of every class, the most important first.
        weights: (nnz,) float32, the weight of each entry of ``supports.flat``.
        bias: (C,) float32.
        frequency: (nnz,) float32, the share of the class's images that have the feature among their largest.
        mean: (nnz,) float32, the feature's mean over the class's images; times the weight, its mean contribution.
        class_names: a name for each class.
        network: what the network is called.
        fingerprint: of the network's weights.
        head_name: the module name of the dense head, or of its layers (see `subspect.networks.summands`).
        unseen: classes without images, which keep their dense row.
        history: what was done, the choice of the features first: method, k, the image set and the part of it used.
        ternary: the scales of a head with readable weights; None where weights are free.
        trust: how far the choice can be trusted; None where features weren't chosen by pursuit.
        curve: cost against the mean number of features k, on images that took no part in choosing them.
        study: that it was made in or loaded from; None where it was read from a file.
        names_in_file: feature index → name as the file that it was read from has them.

    Example:
        >>> decomposition.supports.sizes
        array([5, 5, 5, 5])
        >>> [row.feature for row in decomposition.rows(1)][:2]  # of class 1, the most important first
        [12, 40]
    """

    name: str
    supports: Supports
    weights: Tensor
    bias: Tensor
    frequency: Tensor
    mean: Tensor
    class_names: tuple[str, ...]
    network: str
    fingerprint: str
    head_name: str
    unseen: tuple[int, ...]
    history: tuple[Step, ...]
    ternary: Ternary | None = None
    trust: Trusted | None = None
    curve: tuple[CurvePoint, ...] = ()
    study: Study | None = field(default=None, repr=False)
    names_in_file: Names = field(default_factory=dict, repr=False)

    @property
    def feature_names(self) -> Names:
        """Feature index → name, of the features that have one: those that the study keeps now, else those of the file."""
        return self.names_in_file if self.study is None else self.study.feature_names

    @property
    def examples(self) -> str:
        """What to call what features were chosen on: "images", or "examples" where the study says that they may be none."""
        return "images" if self.study is None else self.study.identity.examples

    @property
    def chosen(self) -> Chosen:
        """How the features were chosen: the first step of the history."""
        first = self.history[0]
        assert isinstance(first, Chosen)  # nothing else is made or read
        return first

    @property
    def refitted(self) -> Refitted | None:
        """How weights and biases were re-learned last; None where they weren't."""
        return next((step for step in reversed(self.history) if isinstance(step, Refitted)), None)

    @property
    def method(self) -> str:
        """How the features were chosen."""
        return self.chosen.method

    @property
    def k(self) -> int | float | Mapping[str, Any] | str | None:
        """What was asked for: a number of features, a share of the mass, a mean with its limits, or "auto".

        None for features read from a file.
        """
        return self.chosen.k

    @property
    def auto(self) -> Settled | None:
        """How a number of features was settled, and what is promised; None where it was asked for."""
        return next((step for step in self.history if isinstance(step, Settled)), None)

    @property
    def settled(self) -> str | None:
        """Say how a number of features was settled, and what is promised; None where it was asked for."""
        if self.auto is None:
            return None
        share, promise = f"{100 * self.auto.tolerance:g}", self.auto.promise
        limit = f"{share} point{'s' * (share != '1')} of {self.auto.measure}"
        size = "the fewest" if self.auto.met else "there is no number of"
        if promise:
            said = f"{size} features for which a loss of at most {limit} can be promised"
            return f"{said}; promise: {promise.text}, from {self.examples} of {promise.set!r}"
        said = f"{size} features that lose at most {limit} on {self.auto.sized_on[0]!r}"
        return f"{said}; promise: none, {self.auto.no_promise}"

    @property
    def mean_size(self) -> float:
        """Mean number of features of the classes that have images."""
        return (
            float(np.delete(self.supports.sizes, list(self.unseen)).mean())
            if len(self.unseen) < len(self.supports)
            else 0.0
        )

    @property
    def refitted_on(self) -> tuple[str, ...]:
        """The image sets that edits were refitted on."""
        steps = (step for step in self.history if isinstance(step, Refitted))
        return tuple(step.refit_on for step in steps if step.refit_on is not None)

    @property
    def chosen_on(self) -> tuple[str, Part]:
        """The image set, and the part of it, on which the features were chosen."""
        return self.chosen.set, self.chosen.part

    def rows(self, label: int | str) -> list[FeatureRow]:
        """Return the features of a class, named by its index or name, the most important first.

        Raises:
            SubspectError: there is no such class.
        """
        label = self.label(label)
        part = slice(*self.supports.offsets[label : label + 2])
        columns = [self.weights[part].tolist(), self.frequency[part].tolist(), self.mean[part].tolist()]
        known = [{}] * len(self.supports[label]) if self.trust is None else self.trust.rows(label, part)
        features = self.supports[label].tolist()
        scales = [None] * len(features) if self.ternary is None else self.ternary.scales(label, features)
        rows = zip(features, *columns, known, scales, strict=True)
        return [FeatureRow(feature, *numbers, **{**more, "scale": scale}) for feature, *numbers, more, scale in rows]

    def to_json(self) -> dict[str, Any]:
        """Return how it came to be and the features of every class as JSON values."""
        return {
            "name": self.name,
            "network": self.network,
            "head": self.head_name,
            "history": history_json(self.history),
            "curve": [asdict(point) for point in self.curve],
            "unseen": list(self.unseen),
            "feature_names": names_json(self.names_of()),
            "classes": [self.class_json(label) for label in range(len(self.class_names))],
        }

    def names_of(self, *labels: int | str) -> dict[int, str]:
        """Return the names of the features that some classes use, or all, and of their substitutes.

        Raises:
            SubspectError: there is no such class.
        """
        names = self.feature_names
        asked = labels or range(len(self.class_names)) if names else ()
        rows = [row for label in asked for row in self.rows(label)]
        used = {row.feature for row in rows} | {feature for row in rows for feature, _ in row.substitutes}
        return occurring(used, names)

    def label(self, given: int | str) -> int:
        """Return the index of a class that was named by its name or index; a name goes first.

        Raises:
            SubspectError: there is no such class, or several have the name.
        """
        return class_index(given, self.class_names)

    @property
    def edits(self) -> tuple[str, ...]:
        """What was dropped and re-learned after the choice, in order, as sentences."""
        said, names = list[str](), self.feature_names
        for step in self.history:
            if isinstance(step, Dropped):
                label, feature = step.dropped
                said.append(f"{self.class_names[label]} without feature {shown(feature, names)}")
            elif isinstance(step, Refitted) and step.refit_on is not None:
                said.append(step.in_words)
        return tuple(said)

    def check(self, study: Study) -> None:
        """Check that a study is of the network that was decomposed.

        Raises:
            SubspectError: it is of another.
        """
        if self.fingerprint != study.identity.fingerprint:
            alone = self.study is not None and self.study.identity.features_alone and study.identity.features_alone
            mine, theirs = (f"{of.network!r}, weights {of.fingerprint[:12]}…" for of in (self, study.identity))
            raise SubspectError(
                f"decomposition {self.name!r} is of another {'head' if alone else 'network'} ({mine}) than the study "
                f"{study.path} ({theirs})"
            )
        own, shape = (
            (len(self.supports), self.supports.n_features),
            (study.identity.n_classes, study.identity.n_features),
        )
        if own != shape:
            raise SubspectError(
                f"decomposition {self.name!r} has {own[0]} classes and {own[1]} features, the study {study.path} has "
                f"{shape[0]} and {shape[1]}; it is from another study, or damaged"
            )

    def class_json(self, label: int | str) -> dict[str, Any]:
        """Return a class's name, index, bias and features as JSON values.

        Raises:
            SubspectError: there is no such class.
        """
        label = self.label(label)
        scales, rows, bias = self.ternary, self.rows(label), self.bias[label].item()
        trust = {} if self.trust is None else self.trust.about(label)
        about = {"class": self.class_names[label], "index": label, "bias": bias}
        formula = scales and {
            "scale": scales.class_scales[label].item() or None,
            "formula": scales.formula(label, rows, bias) or None,
        }
        features = [{**asdict(row), "sign": row.sign, "contribution": row.contribution} for row in rows]
        return {**about, **(formula or {}), **trust, "features": features}

    def __repr__(self) -> str:
        sizes = self.supports.sizes
        each = f"{sizes.min()}" if sizes.min() == sizes.max() else f"{sizes.min()} to {sizes.max()}"
        classes = counted(len(sizes), "class", "classes")
        return f"Decomposition({self.name!r}: {each} of {self.supports.n_features} features for {classes})"

    def without(self, label: int | str, feature: int) -> Decomposition:
        """Return a copy in which a class does without a feature; all other weights stay, and the history says so.

        Args:
            label: class index or name.
            feature: its index.

        Raises:
            SubspectError: there is no such class, or it doesn't use the feature.
        """
        label = self.label(label)
        own = self.supports[label].tolist()
        if feature not in own:
            names = self.feature_names
            raise SubspectError(
                f"class {self.class_names[label]!r} doesn't use feature {shown(feature, names)} in {self.name!r}; it uses "
                f"{some((shown(one, names) for one in own), 20)}"
            )
        entries = slice(*self.supports.offsets[label : label + 2].tolist())
        place = entries.start + own.index(feature)
        kept = torch.arange(len(self.weights)) != place
        rows = [row[row != feature] if one == label else row for one, row in enumerate(self.supports)]
        return replace(
            self,
            name=self.name if "-edited" in self.name else f"{self.name}-edited",
            supports=Supports(rows, self.supports.n_features),
            weights=self.weights[kept],
            frequency=self.frequency[kept],
            mean=self.mean[kept],
            trust=self.trust and self.trust.without(label, entries, place),
            curve=(),
            history=(*self.history, Dropped((label, feature))),
        )

    def with_head(
        self, weight: npt.NDArray[np.float64], bias: npt.NDArray[np.float64], step: Refitted
    ) -> Decomposition:
        """Return a copy with weights (C, d), of which the supports' count, and biases (C,) that were re-learned, and how.

        Weights that were readable are free then.
        """
        supports = self.supports
        return replace(
            self,
            weights=torch.from_numpy(weight[supports.rows, supports.flat].astype(np.float32)),
            bias=torch.from_numpy(bias.astype(np.float32)),
            ternary=None,
            curve=(),
            history=(*self.history, step),
        )

    def layer(self, *, convolution: bool = False) -> DecomposedHead:
        """Return the decomposed head as a module on the CPU."""
        return DecomposedHead(self.supports, self.weights, self.bias, convolution=convolution)

    def matrix(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return weight (C, d), zero outside the supports, and bias (C,) as arrays."""
        return self.layer().dense_weight().detach().numpy(), self.bias.numpy()

    def apply(self, model: nn.Module) -> nn.Module:
        """Return a copy of the network with its head replaced by the decomposed one.

        Raises:
            SubspectError: the model's weights are not those that were decomposed.
        """
        if not isinstance(cast(object, model), nn.Module):
            hint = "; pass network.model" if hasattr(model, "model") else ""
            raise SubspectError(f"the model must be a torch.nn.Module, got {type(model).__name__}{hint}")
        given = weights_fingerprint(model)
        if given != self.fingerprint and self.study is not None and self.study.identity.features_alone:
            raise SubspectError(
                f"the study {self.study.path} was made from features alone, so that there is no network to apply {self.name!r} "
                "to; the decomposed head as a module, to be put in the place of the linear layer, is layer()"
            )
        if given != self.fingerprint:
            raise SubspectError(
                f"this is a different network: the decomposition is of {self.network!r} with weights {self.fingerprint[:12]}…, "
                f"the model given has {given[:12]}…; pass the model that was observed"
            )
        return with_decomposed(model, self.head_name, self.layer())

    def save(self, path: str | Path) -> None:
        """Write one safetensors file with a JSON header, in place of an earlier decomposition.

        Raises:
            SubspectError: it cannot be written, or another file is there.
        """
        with atomic(Path(path), is_decomposition) as file:
            file.write(self.to_bytes())

    def to_bytes(self, also: Mapping[str, Any] | None = None) -> bytes:
        """Return the bytes of such a file; its header holds what is given besides."""
        header = {
            **(also or {}),
            "schema": SCHEMA,
            "name": self.name,
            "n_features": self.supports.n_features,
            "class_names": self.class_names,
            "network": self.network,
            "fingerprint": self.fingerprint,
            "head": self.head_name,
            "unseen": self.unseen,
            "history": history_json(self.history),
            "curve": [asdict(point) for point in self.curve],
            **({"feature_names": names_json(names)} if (names := self.names_of()) else {}),
        }
        return tensor_bytes(self._tensors(), header)

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "indices": torch.from_numpy(self.supports.flat.copy()),
            "offsets": torch.from_numpy(self.supports.offsets.copy()),
            "weights": self.weights,
            "bias": self.bias,
            "frequency": self.frequency,
            "mean": self.mean,
            **({} if self.ternary is None else vars(self.ternary)),
            **({} if self.trust is None else vars(self.trust)),
        }

    @classmethod
    def load(cls, path: str | Path, *, own: bool = False) -> Decomposition:
        """Read what `save` wrote; its name is the file's.

        Args:
            path: the file.
            own: whether it must be the one that was saved under that name.

        Raises:
            SubspectError: no such file, damaged, or not a decomposition.
        """
        path = Path(path)
        if not is_file(path):
            raise SubspectError(f"no decomposition at {path}")
        tensors, values = read_tensors(path, "a decomposition", sealed=False)
        header = read_header(values, path)
        if own and header.name is not None and header.name != path.stem:
            raise SubspectError(
                f"{path} is not the decomposition that was stored under that name: it is {legible(header.name)!r}; give it its "
                f"name back, or delete {path} and decompose again"
            )
        try:
            supports = read_supports(tensors, header)
            ternary = read_ternary(tensors, supports, header)
            trust = read_trust(tensors, supports)
        except (ValueError, SubspectError) as error:
            raise SubspectError(f"{path} is not a decomposition of subspect: {error}") from error
        return cls(
            name=check_name(path.stem),
            supports=supports,
            weights=tensors["weights"],
            bias=tensors["bias"],
            frequency=tensors["frequency"],
            mean=tensors["mean"],
            class_names=header.class_names,
            network=header.network,
            fingerprint=header.fingerprint,
            head_name=header.head,
            unseen=header.unseen,
            history=read_history(header.history, path, len(header.class_names)),
            ternary=ternary,
            trust=trust,
            curve=read_curve(header.curve, path),
            names_in_file=read_names(header, path),
        )


def is_decomposition(path: Path) -> bool:
    """Tell whether a file holds a decomposition, whole."""
    try:
        Decomposition.load(path)
    except SubspectError:
        return False
    return True
