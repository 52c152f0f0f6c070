"""Files of features, of a linear head and of labels, as NumPy, safetensors, Parquet, Arrow and skops write them.

Pickles are never opened, since opening one runs any code in it; what looks like one is refused, and the message says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
import scipy.sparse
from safetensors.torch import load_file

from subspect.ground.errors import MissingExtra, SubspectError, shortened, some
from subspect.ground.files import open_file, read_json, read_text
from subspect.heads.feature_names import Names, names_in

_PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".bin")
_LABELS, _IDS, _TEXTS, _LINKS = ("labels", "label"), ("ids", "id"), ("texts", "text"), ("links", "link")
_BESIDES = (*_LABELS, *_IDS, *_TEXTS, *_LINKS)
_SPARSE = {"data", "format", "shape"}  # what scipy.sparse.save_npz writes, besides the places
_SAVE_FEATURES = "save them with numpy.save('features.npy', features), or as .npz, .safetensors, .parquet or .arrow"
_SAVE_HEAD = (
    "save its weight and bias; for a scikit-learn classifier use numpy.savez('head.npz', weight=classifier.coef_, "
    "bias=classifier.intercept_), or save the classifier with skops.io.dump(classifier, 'head.skops')"
)
_SAVE_LABELS = "save them with numpy.save('labels.npy', labels), or as text, one per line"
_Read = Callable[[Path], Any]


@dataclass(frozen=True)
class FeatureFile:
    """What a file of features holds.

    Attributes:
        features: an array or a sparse matrix (n, d).
        labels: n class indices or names; None if the file has none.
        ids: n names of the rows; None if the file has none.
        feature_names: feature index → name, of a table with a column for each feature.
        texts: of the rows; None if the file has none.
        links: likewise.
        taken: of a table, the columns that were taken for something else than features → for what.
    """

    features: Any
    labels: npt.ArrayLike | None = None
    ids: Sequence[str] | None = None
    feature_names: Names = field(default_factory=dict)
    texts: Sequence[str | None] | None = None
    links: Sequence[str | None] | None = None
    taken: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadFile:
    """What a file of a head holds.

    Attributes:
        weight: (C, d); a single row for a classifier of two classes.
        bias: one number per row of the weight.
        classes: what the labels call the classifier's classes; None if the file doesn't say.
        feature_names: feature index → name, of a classifier that was fitted on a data frame.
    """

    weight: Any
    bias: Any
    classes: tuple[str, ...] | None = None
    feature_names: Names = field(default_factory=dict)


def read_features(path: Path) -> FeatureFile:
    """Read features, and labels, ids, texts and links where the file has them.

    Args:
        path: .npy; .npz or .safetensors with features and, optionally, labels, ids, texts and links, or .npz as written by
            ``scipy.sparse.save_npz``; Parquet or Arrow, with a column of lists called features (or a single column of lists),
            or else one column per feature, which gives it its name, and columns label, id, text and link.

    Raises:
        SubspectError: the file is missing, damaged, a pickle, or something else.
    """
    kinds: dict[str, _Read] = {".npy": _numpy, ".npz": _numpy, ".safetensors": _tensors}
    kinds |= dict.fromkeys((".parquet", ".pq"), _parquet) | dict.fromkeys((".arrow", ".feather", ".ipc"), _arrow)
    found = _read(path, "features", kinds, _SAVE_FEATURES)
    if isinstance(found, FeatureFile):
        return found
    if isinstance(found, Mapping):
        labels, ids, texts, links = (
            next((found[key] for key in keys if key in found), None) for keys in (_LABELS, _IDS, _TEXTS, _LINKS)
        )
        return FeatureFile(_features_in(found, path), labels, ids, texts=texts, links=links)
    return FeatureFile(found)


def read_head(path: Path) -> HeadFile:
    """Read a linear head.

    Args:
        path: .npz or .safetensors with weight (C, d) and bias (C,), or a scikit-learn classifier saved with skops (.skops); of
            a pipeline, its last step is read.

    Raises:
        SubspectError: the file is missing, damaged, a pickle, not a linear classifier, or something else.
        MissingExtra: skops is needed and isn't installed.
    """
    kinds: dict[str, _Read] = {".npz": _numpy, ".safetensors": _tensors, ".skops": _estimator}
    found = _read(path, "head", kinds, _SAVE_HEAD)
    if isinstance(found, HeadFile):
        return found
    names = [name for name in found if name.rpartition(".")[2] == "weight"] if isinstance(found, Mapping) else []
    bias = names[0].removesuffix("weight") + "bias" if names else ""
    if len(names) != 1 or bias not in found:
        held = some(found) if isinstance(found, Mapping) else "an array without a name"
        raise SubspectError(
            f"the head {path} must contain one weight (C, d) and its bias (C,), zeros if the head has none; it "
            f"contains {held}; "
            f"{_SAVE_HEAD}"
        )
    return HeadFile(found[names[0]], found[bias])


def read_labels(path: Path) -> Any:
    """Read labels: .npy, or text with one class index or class name per line.

    Raises:
        SubspectError: it is missing, damaged, or a pickle.
    """
    if path.suffix.lower() in (".npy", *_PICKLES):
        return _read(path, "labels", {".npy": _numpy}, _SAVE_LABELS)
    return [line.strip() for line in read_text(path, "labels").rstrip().splitlines()]


def read_lines(path: Path, what: str) -> Any:
    """Read texts or links: one per line, or a JSON list (.json), whose texts may have several lines.

    Args:
        path: the file.
        what: it is to hold, for messages: "texts" or "links".

    Raises:
        SubspectError: it is missing, or something else.
    """
    if path.suffix.lower() != ".json":
        return read_text(path, what).removesuffix("\n").split("\n")
    found = read_json(path, what)
    if not isinstance(found, list):
        raise SubspectError(f"{path} must be a JSON list of {what}, one for each row; it is {type(found).__name__}")
    return found


def as_indices(labels: Any, head: HeadFile, class_names: Sequence[str] | None) -> Any:
    """Return labels as class indices, if they are the classifier's own class names or whole numbers written as text.

    Others are left as they are, for `subspect.from_features` to check.
    """
    if labels is None:
        return None
    values = np.asarray(labels).reshape(-1).tolist()
    if head.classes is not None and {str(value) for value in values} <= set(head.classes):
        return np.array([head.classes.index(str(value)) for value in values], np.int64)
    numbers = all(isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) for value in values)
    if numbers and not set(values) <= set(class_names or ()):
        return np.array([int(value) for value in values], np.int64)
    return labels


def _read(path: Path, what: str, kinds: Mapping[str, _Read], otherwise: str) -> Any:
    """Read a file by the reader of its suffix.

    Raises:
        SubspectError: it is missing, damaged, of another kind, or a pickle.
    """
    suffix = path.suffix.lower()
    with open_file(path, f"the {what}") as file:
        start = file.read(2)
    if suffix in _PICKLES or (start[:1] == b"\x80" and start[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        raise SubspectError(
            f"the {what} {path} is a pickle (as pickle, joblib and torch.save write it), which runs any code in "
            f"it when opened, so subspect never opens one; {otherwise}"
        )
    if suffix not in kinds:
        raise SubspectError(f"cannot read {what} from {path}: it must be one of {', '.join(kinds)}; {otherwise}")
    try:
        return kinds[suffix](path)
    except SubspectError:
        raise
    except Exception as error:  # a damaged file ends in almost any error of its reader
        if re.search("Object arrays|Python objects", str(error)):
            raise SubspectError(
                f"the {what} {path} contains Python objects, stored as a pickle, which subspect doesn't open; "
                f"turn them into an array of numbers or of text: {otherwise}"
            ) from error
        reason = f"{type(error).__name__}: {shortened(str(error).partition(chr(10))[0])}"
        raise SubspectError(f"cannot read the {what} {path} as {suffix}: {reason}; {otherwise}") from error


def _numpy(path: Path) -> Any:
    """Read an array, mapped into memory, or all arrays of an archive."""
    with open_file(path) as file:
        starts = file.read(6)
        if starts == b"\x93NUMPY":
            return np.lib.format.open_memmap(path, mode="r")
        if starts[:2] != b"PK":
            raise ValueError("it does not start like a NumPy file")
        file.seek(0)
        found = np.load(file, allow_pickle=False)
        if set(found.files) >= _SPARSE:
            return _checked(scipy.sparse.load_npz(path))
        return {name: found[name] for name in found.files}


def _checked(sparse: Any) -> Any:
    """Return a sparse matrix whose indices are all within its shape, since SciPy would read beyond."""
    if hasattr(sparse, "check_format"):
        sparse.check_format(full_check=True)
    return sparse


def _tensors(path: Path) -> Any:
    return load_file(path)


def _parquet(path: Path) -> FeatureFile:
    with open_file(path) as file:
        return _of_table(pyarrow.parquet.read_table(file), path)


def _arrow(path: Path) -> FeatureFile:
    """Read an Arrow file, or the stream that some programs write under that name."""
    with open_file(path) as file:
        starts = file.read(6)
        file.seek(0)
        table = (pa.ipc.open_file if starts == b"ARROW1" else pa.ipc.open_stream)(file).read_all()
        return _of_table(table, path)


def _features_in(found: Mapping[str, Any], path: Path) -> Any:
    """Return the features of an archive: what is called so, or all that there is besides labels and ids."""
    others = [name for name in found if name not in _BESIDES]
    name = "features" if "features" in found else others[0] if len(others) == 1 else None
    if name is None:
        raise SubspectError(
            f"{path} contains no array called 'features', but {some(others) or 'none besides labels and ids'}; "
            f"call the features 'features', the labels 'labels' and the names of the rows 'ids'"
        )
    return found[name]


def _of_table(table: pa.Table, path: Path) -> FeatureFile:
    """Return the features, labels and ids of a table of columns."""
    table.validate(full=True)
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SubspectError(f"{path} has several columns of the same name: {some(twice)}; rename them")
    found = {kind[0]: _besides(table, kind) for kind in (_LABELS, _IDS, _TEXTS, _LINKS)}
    taken = {name: kind for kind, name in found.items() if name is not None}
    besides = {kind: table[name].to_pylist() for name, kind in taken.items()} | {"taken": taken}
    lists = [name for name in names if _is_list(table[name].type)]
    if "features" in lists or len(lists) == 1:
        return FeatureFile(_of_lists(table["features" if "features" in lists else lists[0]], path), **besides)
    used = [name for name in names if name not in taken and not re.fullmatch("__index_level_[0-9]+__", name)]
    odd = [f"{name} ({table[name].type})" for name in used if not _is_number(table[name].type)]
    if odd or not used:
        raise SubspectError(
            f"{path} must have a column of lists called 'features', or one column of numbers per feature, "
            f"besides 'label' and 'id'; it has {some(odd) or 'no other columns'}; leave out or rename the "
            f"columns that are not features"
        )
    features = np.empty((len(table), len(used)), np.float32)
    with np.errstate(over="ignore"):
        for column, name in enumerate(used):
            features[:, column] = table[name].to_numpy()
    return FeatureFile(features, feature_names=names_in(used), **besides)


def _besides(table: pa.Table, kind: Sequence[str]) -> str | None:
    """Return which column holds labels, ids, texts or links, by its name; texts and links only if it is of text."""
    named = (name for name in kind if name in table.column_names)
    texts = (pa.types.is_string, pa.types.is_large_string)
    return next((one for one in named if kind in (_LABELS, _IDS) or any(is_(table[one].type) for is_ in texts)), None)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _of_lists(column: pa.ChunkedArray, path: Path) -> npt.NDArray[Any]:
    """Return a column of lists of numbers, all of one length, as a table."""
    widths = pyarrow.compute.list_value_length(column).unique().to_pylist()
    if len(widths) != 1 or widths[0] is None or not _is_number(column.type.value_type):
        raise SubspectError(
            f"{path}: a column of features must contain the same number of values in each row; it contains "
            f"{column.type}, of the lengths "
            f"{some(widths)}"
        )
    flat = pyarrow.compute.list_flatten(column).to_numpy()
    table: npt.NDArray[Any] = flat.reshape(len(column), widths[0])
    return table


def _estimator(path: Path) -> HeadFile:
    """Read a scikit-learn classifier that skops wrote; of a pipeline its last step."""
    try:
        import skops.io
    except ImportError as error:
        raise MissingExtra("skops", "sklearn", "reading a scikit-learn classifier") from error
    unknown = skops.io.get_untrusted_types(file=path)
    if unknown:
        raise SubspectError(f"the head {path} contains types that skops doesn't trust: {some(unknown)}; {_SAVE_HEAD}")
    found = skops.io.load(path, trusted=[])
    return head_of(found.steps[-1][1] if hasattr(found, "steps") else found, f"the head {path}")


def head_of(classifier: Any, what: str) -> HeadFile:
    """Return the head that a linear classifier of scikit-learn is.

    Args:
        classifier: a fitted one.
        what: to call it in messages.

    Raises:
        SubspectError: it isn't fitted, or not linear.
    """
    weight, classes = getattr(classifier, "coef_", None), getattr(classifier, "classes_", None)
    if weight is None or classes is None or hasattr(classifier, "dual_coef_"):
        raise SubspectError(
            f"{what} is a {type(classifier).__name__}, which doesn't have a row of weights for each class; "
            f"expected a fitted linear "
            "classifier with coef_, intercept_ and classes_, such as LogisticRegression, LinearSVC or SGDClassifier"
        )
    rows = np.atleast_2d(weight)
    bias = np.broadcast_to(np.reshape(classifier.intercept_, -1), len(rows))  # of one that has none, 0.0
    names = [str(name) for name in getattr(classifier, "feature_names_in_", ())]
    return HeadFile(rows, bias, tuple(str(name) for name in classes.tolist()), names_in(names))
