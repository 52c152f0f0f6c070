"""ImageNet's 1,000 classes: the WordNet id and the name of each, in the order in which networks number them.

`imagenet.txt` has a line for each class, in that order. The ids are the competition's (ILSVRC 2012; timm has them as
``imagenet_synsets.txt``), the names are those of torchvision's weights: the first word that WordNet has for an id, and for the
two "crane" and the two "maillot" something to tell them apart. Larger sets, such as ImageNet-21k, are known where timm is
loaded.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

WORDNET_ID = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?![A-Za-z0-9])")


@cache
def classes() -> dict[str, str]:
    """Return WordNet id → name, in the order of class indices."""
    lines = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def in_words(names: Sequence[str]) -> tuple[str, ...]:
    """Return class names, as words where all of them are WordNet ids of these classes."""
    known = classes()
    return tuple(known[name] for name in names) if all(name in known for name in names) else tuple(names)


def places(n_classes: int, names: Sequence[str] | None) -> dict[str, int]:
    """Return WordNet id → class index of a network, as far as its class names tell.

    The names may be WordNet ids, or ImageNet's names. A network with 1,000 classes has ImageNet's if at least half of its names
    are ImageNet's names at their places, or if it has no names; likewise with ImageNet-21k's as timm names them.
    """
    known = classes() if n_classes == len(classes()) else _of_timm(n_classes)
    if known and (known is classes() if names is None else _alike(names, known)):
        return {id: index for index, id in enumerate(known)}
    ids = {_first(name): id for id, name in classes().items()}
    found = [name if WORDNET_ID.fullmatch(name) else ids.get(_first(name)) for name in names or ()]
    counts = Counter(found)
    return {id: index for index, id in enumerate(found) if id is not None and counts[id] == 1}


def plain(name: str) -> str:
    """Return a name without its case, underscores and hyphens."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _of_timm(n_classes: int) -> dict[str, str]:
    """Return the same of a set of another number of classes; nothing unless timm is loaded, as it is with a network of its."""
    data = sys.modules.get("timm.data")
    subset = data.infer_imagenet_subset({"num_classes": n_classes}) if data else None
    if data is None or subset is None:
        return {}
    info = data.ImageNetInfo(subset)
    return dict(zip(info.label_names(), info.label_descriptions(), strict=True))


def _first(name: str) -> str:
    """Return the first of the synonyms that a name lists, such as "tench, Tinca tinca"."""
    return plain(name.partition(",")[0])


def _alike(names: Sequence[str], known: Mapping[str, str]) -> bool:
    pairs = zip(names, known.values(), strict=True)
    return 2 * sum(_first(name) == _first(own) for name, own in pairs) >= len(names)
