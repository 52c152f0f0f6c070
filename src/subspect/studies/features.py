"""A study from features alone: rows of numbers from any source, and the linear head that reads them; no network, no images.

What is stored is what `subspect.observe` would have stored for a network that passes its input straight to the head, shard by
shard, so that repeating the same call resumes where it stopped. All input is checked before anything is written.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import nn

from subspect.ground.addresses import place
from subspect.ground.arrays import Features, Integers
from subspect.ground.errors import SubspectError, near, shortened, some
from subspect.ground.files import fingerprint, is_file
from subspect.ground.progress import progress
from subspect.ground.text import counted, is_text
from subspect.heads.feature_names import names_in
from subspect.images.labels import numbered
from subspect.images.preprocessing import GIVEN_AS_FEATURES
from subspect.images.sources import what_labels_are
from subspect.networks.network import checked_names, weights_fingerprint
from subspect.studies.closing import complete
from subspect.studies.doubts import near_chance, warn_lacking
from subspect.studies.given_head import as_array, check_kind, linear_head
from subspect.studies.image_set import ImageSet
from subspect.studies.manifests import Identity, SetManifest
from subspect.studies.name_features import filled_in, name_features
from subspect.studies.names import check_set_name
from subspect.studies.pieces import observing
from subspect.studies.shards import Chunk, shard_bytes, shard_rows
from subspect.studies.study import Study, check_disk
from subspect.studies.written import as_links, as_texts

log = logging.getLogger("subspect")

_CUT = 64  # rows: shards are cut as `observe` cuts them with batches of its default size
Rows = Any  #: (n, d) numbers: an array, a tensor, a data frame or a sparse matrix of SciPy's


def from_features(
    features: Rows,
    weight: npt.ArrayLike | torch.Tensor,
    bias: npt.ArrayLike | torch.Tensor | None,
    study: str | Path,
    name: str = "train",
    *,
    labels: npt.ArrayLike | torch.Tensor | None = None,
    class_names: Sequence[str] | None = None,
    ids: Sequence[str] | Sequence[int] | None = None,
    feature_names: Mapping[int, str] | Sequence[str] | None = None,
    texts: Sequence[str | None] | None = None,
    links: Sequence[str | None] | None = None,
    network: str = "features",
    show_progress: bool = True,
) -> Study:
    """Store features in a study together with the linear head that reads them, without any network or image.

    Repeating the same call resumes where it stopped, and does nothing if the set is complete.

    Args:
        features: (n, d) numbers, kept as float32: an array (memory-mapped ones included), a tensor, a data frame, or a SciPy
            sparse matrix.
        weight: the head's weight (C, d); a single row, as in scikit-learn's linear classifiers of two classes, stands for two
            opposite rows: half of it for class 1, and the same with the opposite sign for class 0.
        bias: the head's bias (C,); None if it has none.
        study: the study's folder, created if needed, or its address.
        name: the set's name in the study.
        labels: (n,) class indices, or class names; without them, the head's own predictions are used instead.
        class_names: a name for each class; by default those of the study's other sets, or numbers.
        ids: a name for each row, such as a document's; by default its position.
        feature_names: by default a data frame's columns, if they are text; a name for each feature, such as a vectorizer's
            words, or feature index → name; a feature that has a name in the study keeps it.
        texts: what each row is a text of, to be shown in its place; the first 2,000 characters are kept.
        links: the address of each row's example, https:// or http://, to be shown likewise.
        network: what the study records as the network's name.
        show_progress: whether to draw a progress bar.

    Returns:
        The study, which now contains the set.

    Raises:
        SubspectError: the features are not finite numbers, or their width differs from the head's; there is a wrong number of
            labels, names, ids, texts or links, or a label is not one of the classes; a link doesn't lead to the web; two
            features have one name, or a name is another feature's in the study; the study is of another head; the disk is
            full. What was stored so far is kept.

    Example:
        >>> rows, weight = np.random.default_rng(0).normal(size=(100, 30)), np.eye(3, 30)
        >>> texts = subspect.from_features(rows, weight, None, "texts", labels=(rows @ weight.T).argmax(1))
        >>> texts.decompose(1).supports.rows
        array([0, 1, 2])
    """
    check_set_name(name)
    folder, head = place(study), linear_head(weight, bias)
    table = _table(features)
    _check_width(table.shape[1], head[0].shape)
    names = _names(class_names, len(head[0]), folder)
    given = _given(table, head, labels, ids, names, texts, links)
    feature_names = _columns(features) if feature_names is None else feature_names
    called = filled_in(folder, feature_names, head[0].shape[1]) if feature_names is not None else {}
    identity = _identity(network, head, names)
    opened = Study.create(folder, identity, *map(torch.from_numpy, head))
    if called and called != dict(opened.feature_names):
        name_features(opened, called)
    with observing(opened.path, name):
        image_set = opened.begin(name, _manifest(given, identity))
        if image_set.manifest.complete:
            log.info("%s: all %s rows of %r are already stored", folder, f"{len(image_set):,}", name)
            return opened
        _store(image_set, given, show_progress)
        right, _ = complete(image_set)
    _tell(image_set, right)
    others = [opened.image_set(other) for other in opened.set_names if other != name]
    warn_lacking(image_set, others, names, identity.examples)
    return opened


@dataclass(frozen=True)
class _Given:
    """What was given, looked at.

    Attributes:
        read: returns the rows from one position to another, float32.
        labels: (n,) class indices, −1 where there are none.
        predictions: (n,) the head's top-1 classes.
        ids: n names.
        matching: how labels became class indices.
        fingerprint: of features, labels, ids, texts and links.
        texts: of the rows; empty if there are none.
        links: likewise.
    """

    read: Callable[[int, int], Features]
    labels: Integers
    predictions: Integers
    ids: list[str]
    matching: str
    fingerprint: str
    texts: list[str | None]
    links: list[str | None]

    def chunk(self, first: int, end: int) -> Chunk:
        """Return the rows of some positions as a shard holds them."""
        rows = slice(first, end)
        texts, links = self.texts[rows], self.links[rows]
        said = self.labels[rows], self.predictions[rows]
        return Chunk(self.read(first, end), *said, self.ids[rows], texts=texts, links=links)


def _given(
    table: Any,
    head: tuple[Features, Features],
    labels: object,
    ids: object,
    names: tuple[str, ...],
    texts: object,
    links: object,
) -> _Given:
    """Look at all that was given."""
    n, width = table.shape
    read = partial(_rows_of, table)
    known = _ids(ids, n)
    numbers, matching = _labels(labels, n, names)
    predictions, digest = _looked_through(read, range(0, n, shard_rows(width, _CUT)), known, head)
    shown = as_texts(texts, n), as_links(links, n)
    also = [json.dumps(shown)] if any(shown) else []
    kept = fingerprint(f"{n} {width}", digest, numbers.astype("<i8").tobytes(), *known, *also)
    return _Given(read, numbers, predictions, known, matching, kept, *shown)


def _columns(features: object) -> Mapping[int, str] | None:
    """Return the names that the columns of a data frame, of pandas or polars, give features; None of anything else."""
    columns = getattr(features, "columns", None)
    return names_in(list(columns)) if columns is not None and hasattr(features, "dtypes") else None


def _rows_of(table: Any, first: int, end: int) -> Features:
    """Return the rows of a table from one position to another, float32."""
    block = table[first:end]
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(block.toarray() if scipy.sparse.issparse(block) else block, np.float32)


def _table(features: Rows) -> Any:
    """Return features as something two-dimensional whose rows can be sliced: an array or a sparse matrix in CSR form.

    Raises:
        SubspectError: they are no table of numbers, or an empty one.
    """
    table = features.tocsr() if scipy.sparse.issparse(features) else as_array(features, "features")
    if len(table.shape) != 2 or 0 in table.shape:
        raise SubspectError(
            f"features must be a table (n, d), one row per example and one column per feature; got shape {table.shape}"
        )
    check_kind(table.dtype, "features")
    return table


def _check_width(width: int, shape: tuple[int, int]) -> None:
    if width != shape[1]:
        turned = "the weight seems to lie the other way, (d, C): transpose it" if width == shape[0] else ""
        raise SubspectError(
            f"the features have {counted(width, 'column', 'columns')}, and the head's weight {shape} takes {shape[1]:,}: "
            + (
                turned
                or "give the features that this head was fitted on, one column per column of its weight, in the same order"
            )
        )


def _looked_through(
    read: Callable[[int, int], Features], cuts: range, ids: Sequence[str], head: tuple[Features, Features]
) -> tuple[Integers, str]:
    """Go through the rows once, and return the head's top-1 classes and the SHA-256 of all features.

    Raises:
        SubspectError: rows that aren't finite.
    """
    bad, said, digest = list[int](), list[Integers](), hashlib.sha256()
    for first in cuts:
        block = read(first, first + cuts.step)
        digest.update(block.data)
        bad += (first + np.flatnonzero(~np.isfinite(block).all(axis=1))).tolist()
        said += [] if bad else [_say(block, head)]
    if bad:
        rows = (f"row {row}" if ids[row] == str(row) else f"row {row} ({shortened(ids[row])})" for row in bad)
        raise SubspectError(
            f"NaN, infinity, or a number too large for float32 is in {len(bad):,} of {len(ids):,} rows of features: "
            f"{some(rows, 3)}; fix these rows, or leave them out together with their labels and ids"
        )
    return np.concatenate(said), digest.hexdigest()


def _say(features: Features, head: tuple[Features, Features]) -> Integers:
    """Return the head's top-1 classes, by its logits in float32, as everything that is measured later computes them."""
    with np.errstate(over="ignore", invalid="ignore"):
        logits = np.asarray(features @ head[0].T + head[1], np.float32)
    if not np.isfinite(logits).all():
        raise SubspectError(
            "the head's logits on these features are too large for float32; rescale the features, and the head to match"
        )
    said: Integers = logits.argmax(axis=1)
    return said


def _names(given: Sequence[str] | None, n_classes: int, folder: Path) -> tuple[str, ...]:
    """Return a name for each class: those given, those of the study that is there, or numbers."""
    names = checked_names(given)
    if names is None and is_file(folder / "study.json"):
        identity = Study.open(folder).identity
        names = identity.class_names if identity.n_classes == n_classes else None
    if names is None:
        return numbered(n_classes)
    if len(names) != n_classes:
        raise SubspectError(f"class names: {len(names)}, for a head with {n_classes} classes; give one per class")
    return names


def _labels(given: object, n: int, names: tuple[str, ...]) -> tuple[Integers, str]:
    """Return the labels as class indices (n,), and how they became such; −1 where there are none."""
    if given is None:
        return np.full(n, -1, np.int64), "none"
    labels = as_array(given, "labels")
    flat = labels.reshape(-1)
    if len(flat) != n or not len(labels.shape):
        raise SubspectError(f"there must be one label for each of the {n:,} rows of features; got shape {labels.shape}")
    if flat.dtype.kind in "UO" and all(isinstance(one, str) for one in flat.tolist()):
        return _by_name(flat.tolist(), names), "by name"
    if flat.dtype.kind not in "iub":
        raise SubspectError(
            f"labels must be class indices, or class names; got type {flat.dtype}{what_labels_are(flat[0].item())}"
            if flat.dtype.kind != "O"
            else f"labels must be class indices, or class names; got {shortened(repr(flat[0]))}, among others"
        )
    outside = np.flatnonzero((flat < 0) | (flat >= len(names)))
    if len(outside):
        raise SubspectError(
            f"{counted(len(outside), 'label is no class index', 'labels are no class indices')} from 0 to {len(names) - 1}: "
            f"{some((f'{flat[row]} in row {row}' for row in outside), 3)}; classes are counted from 0, in the order of the "
            "rows of the head's weight; for labels that are names, give class_names (--class-names FILE)"
        )
    return flat.astype(np.int64), "class indices"


def _by_name(labels: list[str], names: tuple[str, ...]) -> Integers:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise SubspectError(f"labels cannot be matched to duplicate class names: {some(twice)}; give class indices")
    places = {name: index for index, name in enumerate(names)}
    unknown = [name for name in dict.fromkeys(labels) if name not in places]
    if unknown:
        raise SubspectError(
            f"labels that are not class names: {some(repr(shortened(name)) + near(name, names) for name in unknown)}; the "
            f"{len(names)} classes are {some(names)}; give the class names (class_names=, --class-names FILE), in the order of "
            "the rows of the head's weight, as in class_names=classifier.classes_"
        )
    return np.array([places[name] for name in labels], np.int64)


def _ids(given: object, n: int) -> list[str]:
    """Return a name for each row."""
    if given is None:
        return [str(row) for row in range(n)]
    ids = given if isinstance(given, str) else as_array(given, "ids").tolist()
    if isinstance(ids, str) or not isinstance(ids, list) or not all(isinstance(one, str | int) for one in ids):
        raise SubspectError("ids must be text or whole numbers, one for each row")
    ids = [str(one) for one in ids]
    odd = next((row for row, one in enumerate(ids) if not one or not is_text(one)), None)
    if len(ids) != n or odd is not None:
        what = (
            f"{len(ids):,} for {n:,} rows"
            if len(ids) != n
            else f"id {odd}, which is empty or contains half of a surrogate pair"
        )
        raise SubspectError(f"there must be one id for each row of features; got {what}")
    twice = [one for one, count in Counter(ids).items() if count > 1]
    if twice:
        raise SubspectError(
            f"ids must differ from row to row; {len(twice):,} occur more than once: {some(map(shortened, twice))}; number them"
        )
    return ids


def _identity(network: str, head: tuple[Features, Features], names: tuple[str, ...]) -> Identity:
    """Say what the study is about; the fingerprint is that of a network that consists of the head alone, called "head"."""
    if not isinstance(network, str) or not is_text(network):
        raise SubspectError(f"network must be text, a name for display; got {network!r}")
    n_classes, width = head[0].shape
    layer = nn.Linear(width, n_classes, device="meta")  # which draws no numbers
    layer.weight, layer.bias = (nn.Parameter(torch.from_numpy(part)) for part in head)
    given = weights_fingerprint(nn.Sequential(OrderedDict(head=layer)))
    return Identity(network, given, "head", n_classes, width, names, GIVEN_AS_FEATURES)


def _manifest(given: _Given, identity: Identity) -> SetManifest:
    return SetManifest(
        network_fingerprint=identity.fingerprint,
        preprocessing=identity.preprocessing,
        kind="features",
        root=None,
        images=len(given.ids),
        fingerprint=given.fingerprint,
        labelled=given.matching != "none",
        matching=given.matching,
        batch_size=_CUT,
        shard_size=shard_rows(identity.n_features, _CUT),
    )


def _store(image_set: ImageSet, given: _Given, show: bool) -> None:
    """Write the missing shards."""
    manifest, done = image_set.manifest, set(image_set.done)
    cuts = {index: manifest.ends(index) for index in range(manifest.n_shards)}
    there = sum(end - first for index, (first, end) in cuts.items() if index in done)
    about = sum(len(one or "") for of in (given.texts, given.links) for one in of)
    check_disk(image_set.folder, shard_bytes(image_set.shape.n_features, manifest.images - there) + about)
    if done:
        log.info("resuming: %d of %d shards are already stored", len(done), manifest.n_shards)
    with progress(image_set.name, manifest.images, "rows", done=there, show=show) as advance:
        for index, (first, end) in cuts.items():
            if index not in done:
                image_set.write(index, given.chunk(first, end), [])
                advance(end - first)


def _tell(image_set: ImageSet, right: int) -> None:
    """Say how good the head is on what was stored, and warn where it looks wrong."""
    name, rows, classes = image_set.name, len(image_set), image_set.shape.n_classes
    log.info("%s: %d classes, %d features, %s rows", name, classes, image_set.shape.n_features, f"{rows:,}")
    if not image_set.labelled:
        log.warning("labels: none; the largest of the head's %d outputs is taken as each row's class", classes)
        return
    log.info("%s: accuracy of the head %.2f %% (%s rows)", name, 100 * right / rows, f"{rows:,}")
    if near_chance(right, rows, classes):
        log.warning(
            "accuracy near chance: %d of %s rows of %r are right, with %d classes. Usual causes: the classes "
            "are in a different order in the labels than in the head, the columns are in a different order than "
            "when the head was fitted, or the features weren't scaled as they were then",
            right,
            f"{rows:,}",
            name,
            classes,
        )
