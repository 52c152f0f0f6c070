"""Everything that reads what a user or a stranger hands over, given broken and hostile inputs: nothing but our own errors.

Each reader (``_fuzz_readers.py``) runs in a process of its own on inputs that chance makes of right ones, that hypothesis
makes, or that coverage guides (atheris; both in the extra "benchmarks"). For each input: no error but our own, no more than a
second, no more than 1 GiB, and the process lives. What fails is saved, shortest first, under --findings; what once failed is
kept in ``fuzz_seeds.json`` and comes first in every run. A million inputs by chance take about 40 minutes on one core.

Example: python benchmarks/fuzz.py --inputs 30000 --engine all --json fuzz.json
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import importlib
import importlib.util
import json
import logging
import mmap
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:  # else imported once it is known whether to watch its coverage
    from _fuzz_readers import Reader

KEPT = Path(__file__).parent / "fuzz_seeds.json"
SILENT = 20.0  # seconds of anyone's time until its process is ended
MEMORY = 2**30  # bytes for one input
LONGEST = 2**20  # bytes of an input
PIXELS = 2**22  # an image may have as many here: what one takes grows with its pixels, and what is too large is refused
_COUNTS = struct.Struct("<6Q")


@dataclass
class Outcome:
    """What a reader did with its inputs.

    Attributes:
        reader: its name.
        inputs: how many it was given.
        accepted: of these.
        refused: likewise, by errors of our own.
        slowest: most milliseconds of a core's time for one input.
        memory: most MiB by which the process grew.
        findings: error and place → how often.
    """

    reader: str
    inputs: int
    accepted: int
    refused: int
    slowest: float
    memory: float
    findings: dict[str, int]


class Slow(BaseException):
    """An input takes longer than it may; not an Exception, so that no reader takes it for one of its own."""


class Ledger:
    """Counts and the input at hand, in memory that outlives the process that writes them."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _COUNTS.size + LONGEST)
        self.inputs = self.accepted = self.refused = self.slowest = self.memory = 0

    def begin(self, data: bytes) -> None:
        """Note an input before it is tried."""
        self.inputs += 1
        self._memory[_COUNTS.size : _COUNTS.size + len(data)] = data
        self._note(len(data))

    def end(self, accepted: bool, nanoseconds: int, grown: int) -> None:
        """Note what became of it."""
        self.accepted, self.refused = self.accepted + accepted, self.refused + (not accepted)
        self.slowest, self.memory = max(self.slowest, nanoseconds), max(self.memory, grown)
        self._note(0)

    def _note(self, length: int) -> None:
        counts = self.inputs, self.accepted, self.refused, self.slowest, self.memory, length
        self._memory[: _COUNTS.size] = _COUNTS.pack(*counts)

    def look(self) -> bytes:
        """Read, in the parent, what the child has noted; return the input at hand."""
        *counts, length = _COUNTS.unpack(self._memory[: _COUNTS.size])
        self.inputs, self.accepted, self.refused, self.slowest, self.memory = counts
        return self._memory[_COUNTS.size : _COUNTS.size + length]


class Trial:
    """Tries inputs on one reader, and notes what comes out."""

    def __init__(self, name: str, reader: Reader, ledger: Ledger, findings: Path, seconds: float) -> None:
        self.name, self.reader, self.ledger, self.folder, self.seconds = name, reader, ledger, findings, seconds
        self.at_start = _resident()
        signal.signal(signal.SIGPROF, _too_slow)

    def __call__(self, data: bytes) -> None:
        """Try one input."""
        data = data[:LONGEST]
        self.ledger.begin(data)
        accepted, start = False, time.process_time_ns()
        signal.setitimer(signal.ITIMER_PROF, self.seconds)
        try:
            self.reader.read(data)
            accepted = True
        except self.reader.refusals as error:
            if _in_chain(error, MemoryError) and not self.reader.claims:
                self.found(data, error)
        except (Exception, Slow) as error:
            self.found(data, error)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        grown = _resident() - self.at_start
        if grown > MEMORY:
            self.found(data, MemoryError(f"the process grew by {grown / 2**20:,.0f} MiB"))
            self.at_start += grown  # the most so far only grows
        self.ledger.end(accepted, time.process_time_ns() - start, grown)

    def found(self, data: bytes, error: BaseException) -> None:
        """Save an input that failed, if none is shorter that failed so."""
        save(self.folder, self.name, data, f"{type(error).__name__} at {_place(error)}", _said(error))


def save(folder: Path, name: str, data: bytes, what: str, said: str) -> None:
    """Note a finding, and save its input unless a shorter one is there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "findings.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps([name, what]) + "\n")
    path = (
        folder
        / f"{''.join(one if one.isalnum() else '-' for one in name)}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"
    )
    if not path.exists() or path.stat().st_size > len(data):
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(f"{name}\n{what}\n{said}", encoding="utf-8", errors="backslashreplace")


def _too_slow(number: int, frame: FrameType | None) -> NoReturn:
    raise Slow("more than --seconds")


def _resident() -> int:
    """Return the most memory that the process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _in_chain(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


def _place(error: BaseException) -> str:
    """Return the last line of subspect's that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [one for one in frames if f"{os.sep}subspect{os.sep}" in one.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "nowhere"


def _said(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-20_000:]


# Engines --------------------------------------------------------------------------------------------------------------


def by_chance(trial: Trial, seeds: list[bytes], inputs: int, seconds: float, seed: int) -> None:
    """Try seeds, then what chance makes of them; of a reader of decisions, random bytes as well."""
    from _fuzz_inputs import mutated

    chance, end = random.Random(seed), time.monotonic() + seconds
    for data in seeds[:inputs]:
        trial(data)
    for _ in range(inputs - len(seeds)):
        if time.monotonic() > end:
            return
        data = chance.choice(seeds)
        fresh = chance.randbytes(chance.choice((4, 16, 64, 256))) if len(data) < 64 else b""
        trial(fresh if (fresh and chance.random() < 0.5) or not data else mutated(data, chance.choice(seeds), chance))


def by_coverage(trial: Trial, seeds: list[bytes], inputs: int, seconds: float, seed: int) -> None:
    """Let atheris (libFuzzer) choose the inputs, by the lines of subspect that they reach; never returns."""
    import atheris

    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(seeds):
            (Path(corpus) / f"{number:04d}").write_bytes(data)
        options = {
            "runs": inputs,
            "max_total_time": max(1, round(seconds)) if seconds < 1e6 else 0,
            "seed": seed + 1,  # 0 would be chance
            "max_len": max(4096, 2 * max(map(len, seeds))),
            "timeout": 3600,  # hangs and memory are watched here; 0 would be none at all
            "rss_limit_mb": 0,
            "verbosity": 0,
            "artifact_prefix": f"{corpus}/",  # it is saved here too
        }
        atheris.Setup(["fuzz", *(f"-{name}={value}" for name, value in options.items()), corpus], trial)
        atheris.Fuzz()


def by_hypothesis(trial: Trial, seeds: list[bytes], inputs: int, seconds: float, seed: int) -> None:
    """Let hypothesis make the inputs: bytes, texts, JSON documents, and right files with a part of them replaced."""
    import hypothesis
    from hypothesis import strategies as st

    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    documents = st.recursive(
        leaves, lambda one: st.lists(one) | st.dictionaries(st.text(max_size=8), one), max_leaves=20
    )
    parts = st.tuples(st.sampled_from(seeds), st.integers(0, 2**20), st.integers(0, 64), st.binary(max_size=64))
    every = st.one_of(
        st.binary(max_size=512),
        st.text(max_size=200).map(lambda text: text.encode()),
        documents.map(lambda value: json.dumps(value).encode()),
        parts.map(lambda one: _replaced(*one)),
    )
    end = time.monotonic() + seconds
    settings = hypothesis.settings(
        max_examples=max(1, inputs - len(seeds)),
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    @hypothesis.seed(seed)
    @settings
    @hypothesis.given(every)
    def give(data: bytes) -> None:
        if time.monotonic() < end:
            trial(data)

    for data in seeds[:inputs]:
        trial(data)
    give()


def _replaced(whole: bytes, at: int, length: int, part: bytes) -> bytes:
    """Return bytes with some of them replaced by others."""
    at %= len(whole) + 1
    return whole[:at] + part + whole[at + length :]


ENGINES = {"chance": by_chance, "hypothesis": by_hypothesis, "coverage": by_coverage}


@contextmanager
def watched(wanted: bool) -> Iterator[None]:
    """Import what follows so that atheris sees which lines of subspect run."""
    if not wanted:
        yield
        return
    import atheris

    with atheris.instrument_imports(include=["subspect"]):
        yield


# Processes ------------------------------------------------------------------------------------------------------------


def tried(name: str, reader: Reader, engine: str, kept: list[bytes], asked: argparse.Namespace) -> Outcome:
    """Try inputs on a reader in a process of its own, and in another one where that dies."""
    left, end = max(len(kept) + len(reader.seeds), round(asked.inputs * reader.share)), 60 * asked.minutes
    outcome = Outcome(name, 0, 0, 0, 0.0, 0.0, {})
    seeds, seed, start = [*kept, *reader.seeds], asked.seed, time.monotonic()
    folder = asked.findings / engine
    while left > 0 and time.monotonic() - start < end and len(outcome.findings) < 20:
        ledger = Ledger()
        child = os.fork()
        if not child:
            trial = Trial(name, reader, ledger, folder, asked.seconds)
            _child(trial, engine, seeds, left, end - (time.monotonic() - start), seed)
        how = _wait(child, ledger)
        at_hand = ledger.look()
        if how:
            save(
                folder, name, at_hand, how, (folder / "output").read_text(encoding="utf-8", errors="replace")[-20_000:]
            )
            seeds = [one for one in seeds if one != at_hand] or [b""]
        outcome.inputs += ledger.inputs
        outcome.accepted += ledger.accepted
        outcome.refused += ledger.refused
        outcome.slowest = max(outcome.slowest, ledger.slowest / 1e6)
        outcome.memory = max(outcome.memory, ledger.memory / 2**20)
        outcome.findings = _counted(folder, name)
        left, seed = left - max(ledger.inputs, 1), seed + 1
        if not how:
            break
    return outcome


def _child(trial: Trial, engine: str, seeds: list[bytes], inputs: int, seconds: float, seed: int) -> NoReturn:
    """Run an engine, and end."""
    warnings.simplefilter("ignore")
    logging.getLogger("subspect").setLevel(logging.ERROR)
    Image.MAX_IMAGE_PIXELS = PIXELS
    with contextlib.suppress(Exception):
        started = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (started + 2 * MEMORY, -1))  # so that no input takes the machine down
    trial.folder.mkdir(parents=True, exist_ok=True)
    output = os.open(trial.folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        ENGINES[engine](trial, seeds, inputs, seconds, seed)
    except BaseException as error:  # the engine itself
        trial.found(b"", error)
    os._exit(0)


def _wait(child: int, ledger: Ledger) -> str:
    """Wait for a process, and end it where it is silent; return what happened to it, or nothing."""
    inputs, since = -1, time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status):
                return f"the process died of signal {os.WTERMSIG(status)}"
            return f"the process ended with exit code {code}" if (code := os.WEXITSTATUS(status)) else ""
        at_hand = ledger.look()
        if ledger.inputs != inputs or not at_hand:
            inputs, since = ledger.inputs, time.monotonic()
        if time.monotonic() - since > SILENT:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"the process hung for {SILENT:.0f} s"
        time.sleep(0.02)


def _counted(folder: Path, name: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError), (folder / "findings.jsonl").open(encoding="utf-8") as lines:
        for reader, what in map(json.loads, lines):
            if reader == name:
                counts[what] = counts.get(what, 0) + 1
    return counts


# The whole ------------------------------------------------------------------------------------------------------------


def kept_seeds() -> dict[str, dict[str, bytes]]:
    """Return the inputs that once failed: reader → what was wrong → input."""
    stored = json.loads(KEPT.read_text(encoding="utf-8"))
    return {name: {what: base64.b64decode(data) for what, data in ones.items()} for name, ones in stored.items()}


def main() -> int:
    """Fuzz, print, and return 1 where there is a finding."""
    torch.set_num_threads(1)  # before anything is computed: a pool of threads would not outlive the forks
    asked = _options()
    engines = [*ENGINES] if asked.engine == "all" else [asked.engine]
    if "coverage" in engines and importlib.util.find_spec("atheris") is None:
        print(
            "engine coverage: skipped, since atheris is not installed: pip install -c constraints.txt '.[benchmarks]'"
        )
        engines.remove("coverage")
    for engine in engines:
        (asked.findings / engine / "findings.jsonl").unlink(missing_ok=True)
    outcomes: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        with watched("coverage" in engines):
            made: ModuleType = importlib.import_module("_fuzz_readers")
        every, kept = made.readers(Path(folder)), kept_seeds()
        names = [name for name in every if any(one in name for one in asked.only or [""])]
        for engine in engines:
            rows = outcomes[engine] = []
            for one in names:
                rows.append(tried(one, every[one], engine, [*kept.get(one, {}).values()], asked))
                print(
                    f"{engine}: {one}: {rows[-1].inputs:,} inputs, {len(rows[-1].findings)} findings", file=sys.stderr
                )
            _show(engine, rows)
    if asked.json is not None:
        asked.json.write_text(
            json.dumps({one: [asdict(row) for row in rows] for one, rows in outcomes.items()}, indent=1)
        )
    findings = sum(len(row.findings) for rows in outcomes.values() for row in rows)
    inputs = sum(row.inputs for rows in outcomes.values() for row in rows)
    print(f"{inputs:,} inputs, {findings} findings (bar: 0)" + (f", saved in {asked.findings}" if findings else ""))
    return 1 if findings else 0


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=30_000, help="for each reader and engine; slow ones get fewer")
    parser.add_argument("--minutes", type=float, default=1e9, help="at most, for each reader and engine")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a core's time for one input, at most")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="readers whose name holds one of these")
    parser.add_argument("--engine", choices=[*ENGINES, "all"], default="chance", help="what makes the inputs")
    parser.add_argument("--seed", type=int, default=0, help="of chance: the same inputs again")
    parser.add_argument("--findings", type=Path, help="folder for inputs that fail; a new one unless given")
    parser.add_argument("--json", type=Path, help="write the table to this file")
    asked = parser.parse_args()
    asked.findings = asked.findings or Path(tempfile.gettempdir()) / f"subspect-fuzz-{os.getpid()}"
    return asked


def _show(engine: str, rows: list[Outcome]) -> None:
    table = Table(title=f"Fuzzing by {engine}; bar: no findings", title_justify="left")
    for column in ("reader", "inputs", "accepted", "refused", "slowest ms", "most MiB", "findings"):
        table.add_column(column, justify="left" if column in ("reader", "findings") else "right", overflow="fold")
    for one in rows:
        counts = (f"{value:,}" for value in (one.inputs, one.accepted, one.refused))
        found = "\n".join(f"{what} ({times:,} times)" for what, times in one.findings.items()) or "0"
        table.add_row(one.reader, *counts, f"{one.slowest:,.0f}", f"{one.memory:,.0f}", found)
    Console(width=150).print(table)


if __name__ == "__main__":
    sys.exit(main())
