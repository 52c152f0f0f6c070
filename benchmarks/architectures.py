"""Of how many architectures is the head found? Every classifier of timm, torchvision or transformers, with random weights.

For each, the head is looked for; what was found must give the network's logits on other images, and the network with a
decomposed head that keeps every feature must say what it said. Where no head or no maps are found the reason is kept. One line
of JSON for each network, so that the same command resumes where it was stopped; networks run in a process of their own, as some
need more memory than there is. With --table, what was found is printed as rows of the table in docs/architectures.md.

Example: python benchmarks/architectures.py --library timm --json timm.jsonl --most 120
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from _architectures import LIBRARIES, Found, as_row, looked_at, names


def main() -> int:
    """Go through the networks that are not in the file yet, and print what was found; 1 where one was wrong or crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=LIBRARIES, default="timm", help="whose networks")
    parser.add_argument("--json", type=Path, required=True, help="the file that the lines go to, or lie in already")
    parser.add_argument("--most", type=float, default=120, help="millions of parameters; larger networks are left out")
    parser.add_argument("--names", nargs="*", help="these alone")
    parser.add_argument("--family", action="store_true", help="the smallest network of each family alone")
    parser.add_argument("--table", action="store_true", help="print rows of a table at the end, and nothing else")
    arguments = parser.parse_args()
    known = {row.name: row for row in _rows(arguments.json)}
    wanted = arguments.names or names(arguments.library, arguments.family)
    left = [name for name in wanted if name not in known]
    while left:
        with arguments.json.open("a") as file, _process() as process:
            for name in tuple(left):
                left.remove(name)
                try:
                    known[name] = process.submit(looked_at, arguments.library, name, arguments.most).result()
                except Exception as error:
                    known[name] = Found(name, "crashed", reason=f"{type(error).__name__}: {error}")
                file.write(json.dumps(known[name]._asdict()) + "\n")
                file.flush()
                if not arguments.table:
                    print(f"{name}: {known[name].result}", flush=True)
                if known[name].reason.startswith(BrokenProcessPool.__name__):
                    break  # a new process for the others
    if arguments.table:
        print("\n".join(as_row(arguments.library, known[name]) for name in wanted))
        return 0
    return _told([known[name] for name in wanted])


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,), max_tasks_per_child=100
    )


def _rows(path: Path) -> list[Found]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [Found(**json.loads(line)) for line in lines if line.endswith("}")]


def _told(rows: Sequence[Found]) -> int:
    kinds = ("found", "explained", "wrong", "crashed", "large", "no classifier")
    counts = {kind: sum(row.result == kind for row in rows) for kind in kinds}
    tried = sum(counts[kind] for kind in ("found", "explained", "wrong", "crashed"))
    mapped = sum(row.maps for row in rows)
    print(f"{tried} networks: {', '.join(f'{kind} {count}' for kind, count in counts.items())}")
    if tried:
        print(
            f"found {100 * counts['found'] / tried:.1f} %; maps of {100 * mapped / max(counts['found'], 1):.1f} % of those"
        )
    for row in rows:
        if row.result in ("explained", "wrong", "crashed"):
            print(f"{row.name}: {row.result}: {row.reason[:500]}")
    return int(bool(counts["wrong"] or counts["crashed"]))


if __name__ == "__main__":
    sys.exit(main())
