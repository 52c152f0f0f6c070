"""Of how many architectures is the head found? Every network of timm or torchvision that has a classifier, with random weights.

For each, the head is looked for; what was found must give the network's logits on other images, and the network with a
decomposed head that keeps every feature must say what it said. Where nothing is found the reason is kept. One line of JSON for
each network, so that the same command goes on where it was stopped; a network in a process of its own, as some are large.

Example: python benchmarks/architectures.py --library timm --json timm.jsonl --most 120
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _torchvision import importable

_kept: list[Any] = []  # what torchvision needs
LIBRARIES = ("timm", "torchvision")


def main() -> int:
    """Go through the networks that are not in the file yet, and print what was found; 1 where one was wrong or crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=LIBRARIES, default="timm", help="whose networks")
    parser.add_argument("--json", type=Path, required=True, help="the file that the lines go to, or lie in already")
    parser.add_argument("--most", type=float, default=120, help="millions of parameters; larger networks are left out")
    parser.add_argument("--names", nargs="*", help="these alone")
    parser.add_argument("--family", action="store_true", help="the smallest network of each family alone")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(looked_at(arguments.library, arguments.one, arguments.most)))
        return 0
    known = {row["name"]: row for row in _rows(arguments.json)}
    names = arguments.names or _names(arguments.library, arguments.family)
    for name in names:
        if name not in known:
            known[name] = _in_a_process(arguments.library, name, arguments.most)
            with arguments.json.open("a") as file:
                file.write(json.dumps(known[name]) + "\n")
            print(f"{name}: {known[name]['result']}", flush=True)
    return _told([known[name] for name in names])


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.exists():
        yield from (json.loads(line) for line in path.read_text().splitlines() if line.endswith("}"))


def _names(library: str, family: bool) -> list[str]:
    _kept.append(importable())
    if library == "torchvision":
        from torchvision import models

        return list(models.list_models(module=models))
    import timm

    if not family:
        return list(timm.list_models())
    return [
        min(timm.list_models(module=module), key=len)
        for module in timm.list_modules()
        if timm.list_models(module=module)
    ]


def _in_a_process(library: str, name: str, most: float) -> dict[str, Any]:
    line = [sys.executable, __file__, "--library", library, "--json", "-", "--one", name, "--most", str(most)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        return {
            "name": name,
            "result": "crashed",
            "reason": (done.stderr.strip().splitlines() or ["no word"])[-1][:500],
        }
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def looked_at(library: str, name: str, most: float) -> dict[str, Any]:
    """Build a network with random weights and say what was found of it.

    Returns:
        ``result``: "found", "explained", "wrong", "large" or "no classifier"; with head, features and whether there are maps.
    """
    import subspect

    _kept.append(importable())
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, size = _built(library, name)
    millions = sum(one.numel() for one in model.parameters()) / 1e6
    row: dict[str, Any] = {"name": name, "millions": round(millions, 2)}
    if millions > most:
        return {**row, "result": "large"}
    if library == "timm" and not getattr(model, "num_classes", 0):
        return {**row, "result": "no classifier"}
    for parameter in model.parameters():  # zeros, as of classifiers, would hide that a head is the wrong one
        if not bool(parameter.detach().any()):
            nn.init.normal_(parameter, std=0.02)
    network = subspect.Network(model)
    try:
        head = network.find_head(torch.randn(2, *size))
    except subspect.SubspectError as error:
        return {**row, "result": "explained", "reason": str(error)[:500]}
    read = subspect.read_maps(network, torch.randn(2, *size))
    about = {"head": head.name, "features": head.n_features, "maps": read.maps is not None}
    return {**row, "result": "found" if _right(network, torch.randn(2, *size)) else "wrong", **about}


def _right(network: Any, pixels: Tensor) -> bool:
    """Tell whether a decomposed head that keeps every feature says what the network says."""
    from subspect.heads.head import DecomposedHead
    from subspect.heads.placing import with_decomposed
    from subspect.heads.supports import Supports
    from subspect.networks.finding import logits_of

    head = network.head
    whole = Supports([range(head.n_features)] * head.n_classes, head.n_features)
    layer = DecomposedHead(whole, head.weight.flatten(), head.bias)
    with network.running():
        wanted = logits_of(network.model(pixels), head, len(pixels))
        said = logits_of(with_decomposed(network.model, head.name, layer).eval()(pixels), head, len(pixels))
    return bool((said - wanted).abs().max() <= 1e-3 * max(1.0, float(wanted.abs().max())))


def _built(library: str, name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    if library == "torchvision":
        from torchvision import models

        model: nn.Module = models.get_model(name, weights=None)
        side = models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
        return model.eval(), (3, side, side)
    import timm

    made: Any = timm.create_model(name, pretrained=False)
    return made.eval(), tuple(made.pretrained_cfg["input_size"])


def _told(rows: list[Mapping[str, Any]]) -> int:
    counts = {
        kind: sum(row["result"] == kind for row in rows) for kind in ("found", "explained", "wrong", "crashed", "large")
    }
    tried = sum(counts[kind] for kind in ("found", "explained", "wrong", "crashed"))
    mapped = sum(bool(row.get("maps")) for row in rows)
    print(f"{tried} networks: {', '.join(f'{kind} {count}' for kind, count in counts.items())}")
    if tried:
        print(
            f"found {100 * counts['found'] / tried:.1f} %; maps of {100 * mapped / max(counts['found'], 1):.1f} % of those"
        )
    for row in rows:
        if row["result"] in ("explained", "wrong", "crashed"):
            print(f"{row['name']}: {row['result']}: {row.get('reason', '')}")
    return int(bool(counts["wrong"] or counts["crashed"]))


if __name__ == "__main__":
    sys.exit(main())
