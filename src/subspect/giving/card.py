"""The model card of a decomposed network: which features decide each class, what that costs, how it was made; in Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import version

from subspect.ground.text import legible
from subspect.heads.decomposition import Decomposition
from subspect.heads.shown import class_features
from subspect.images.preprocessing import described
from subspect.measuring.fidelity import Fidelity, evaluate, percent
from subspect.studies.parts import in_words
from subspect.studies.study import Study

_FEATURES = 20  # of a class, that are named
_HUB = re.compile(r"hf:([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)", re.ASCII)


def model_card(study: Study, decomposition: Decomposition, prepared: bool) -> str:
    """Return the card.

    Args:
        study: of the network.
        decomposition: of this study.
        prepared: whether the image processor lies beside the card.
    """
    fidelity = evaluate(study, decomposition)
    parts = [
        _front(study),
        f"# {written(_called(study.identity.network))}, with {_features(decomposition)} for each class",
        _about(study, decomposition),
        "## What it costs",
        *_costs(fidelity),
        "## Which features decide each class",
        "Features are inputs of the final linear layer, counted from 0; the most important first.",
        "\n".join(_classes(decomposition, fidelity)),
        "## How it was made",
        "\n".join(f"- {one}" for one in _history(decomposition)),
        "## How to use it",
        _use(study, prepared),
    ]
    return "\n\n".join(parts) + "\n"


def written(text: str) -> str:
    """Return text from outside as Markdown that shows it as it is, in a line, and in a cell of a table."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", legible(text))


def _called(network: str) -> str:
    """Return what a network is called, without the place on somebody's disk where it lies."""
    found = _HUB.fullmatch(network)
    return found[1] if found else re.split(r"[/\\]", network.rstrip("/\\"))[-1]


def _front(study: Study) -> str:
    """Return what the hub reads: YAML, of which JSON is a part."""
    found = _HUB.fullmatch(study.identity.network)
    fields = {
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        **({"base_model": found[1]} if found else {}),
        "tags": ["image-classification", "subspect", "interpretability", "sparse"],
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"])


def _features(decomposition: Decomposition) -> str:
    """Say how many features a class has on average."""
    size = f"{decomposition.mean_size:.3g}"
    return f"{size} feature{'s' * (size != '1')}"


def _about(study: Study, decomposition: Decomposition) -> str:
    identity = study.identity
    return (
        f"The final layer of {written(_called(identity.network))} ({identity.n_classes:,} classes, {identity.n_features:,} "
        "features) was replaced by a decomposed one, in which each class uses only its influential features: "
        f"{len(decomposition.weights):,} of {identity.n_classes * identity.n_features:,} weights are kept, the others zero; "
        f"all other layers are as they were (weights SHA-256 {identity.fingerprint[:16]}…)."
    )


def _costs(fidelity: Fidelity) -> list[str]:
    cost = fidelity.overall
    rows = [("accuracy", cost.dense_accuracy, cost.accuracy), ("fidelity", None, cost.fidelity)]
    if cost.top5 is not None:
        rows.insert(1, ("top-5 accuracy", cost.dense_top5, cost.top5))
    table = [
        "| | dense | decomposed |",
        "| --- | --- | --- |",
        *(f"| {name} | {percent(dense)} | {percent(own)} |" for name, dense, own in rows),
    ]
    note = (
        f"On {written(fidelity.note)}. In brackets: 95 % intervals, in percent. Fidelity: share of images on which the "
        "decomposed and the dense network agree on the top-1 class."
    )
    return ["\n".join(table), note]


def _classes(decomposition: Decomposition, fidelity: Fidelity) -> Iterator[str]:
    yield "| class | features | accuracy, dense | decomposed |"
    yield "| --- | --- | --- | --- |"
    for label, (name, cost) in enumerate(fidelity.classes.items()):
        said = written(class_features(decomposition, label, _FEATURES))
        if decomposition.ternary and label not in decomposition.unseen:
            rows = decomposition.rows(label)
            said = written(decomposition.ternary.formula(label, rows, decomposition.bias[label].item()))
        shares = (f"{100 * one.value:.1f} %" for one in ((cost.dense_accuracy, cost.accuracy) if cost else ()))
        dense, few = tuple(shares) or ("", "")
        yield f"| {written(name)} | {said} | {dense} | {few} |"


def _history(decomposition: Decomposition) -> Iterator[str]:
    chosen, again = decomposition.chosen, decomposition.refitted
    size = f", k = {json.dumps(chosen.k)}" if chosen.k is not None else ""
    size += f", from a pool of {chosen.pool}" * bool(chosen.pool) + chosen.favoured
    yield f"Features were chosen by {written(chosen.method)}{written(size)}, on {written(chosen.set)}{in_words(chosen.part)}."
    if again is not None:
        towards = "the labels" if again.refit == "labels" else "the dense network's probabilities"
        yield f"Weights and biases were re-learned on those features, towards {towards}."
    if decomposition.ternary is not None:
        yield "Weights are −1, 0 or +1, times one scale for each class, over one for each feature."
    if decomposition.settled:
        yield f"Number of features: {written(decomposition.settled)}."
    for one in decomposition.edits:
        yield f"Edited: {written(one)}."
    yield (
        f"By subspect {version('subspect')}; the method is that of [Decomposing the Deep](https://arxiv.org/abs/2112.07719) "
        "(Badola, Roy, Padmanabhan, Lal)."
    )


def _use(study: Study, prepared: bool) -> str:
    lines = [
        "```python",
        f"from transformers import {'AutoImageProcessor, ' if prepared else ''}AutoModelForImageClassification",
        "",
        *(['processor = AutoImageProcessor.from_pretrained("FOLDER")'] if prepared else []),
        'model = AutoModelForImageClassification.from_pretrained("FOLDER")',
        "```",
    ]
    how = "" if prepared else f"\n\nImages were prepared thus: {written(described(study.identity.preprocessing))}."
    return "\n".join(lines) + how
