"""A minute of fuzzing: what once failed, and hundreds of fresh inputs for each reader, always the same."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize(("engine", "inputs"), [("chance", "300"), ("hypothesis", "200")])
def test_every_reader_bears_what_it_is_given(tmp_path: Path, engine: str, inputs: str) -> None:
    options = ["--engine", engine, "--inputs", inputs, "--findings", str(tmp_path), "--json", str(tmp_path / "a")]
    options += ["--seconds", "8"]  # what hangs, however slow the machine: the benchmark's own bar is a second
    done = subprocess.run([sys.executable, BENCHMARKS / "fuzz.py", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "a").read_text(encoding="utf-8"))[engine]
    assert len(rows) > 30 and all(row["inputs"] >= 40 for row in rows)
    assert [row["reader"] for row in rows if not row["accepted"]] == []


DOES = {
    "asks for memory": ("bytearray(3 * 2**30)", "MemoryError at "),
    "dies": ("os.kill(os.getpid(), signal.SIGSEGV)", "the process died of signal 11"),
    "ends": ("os._exit(3)", "the process ended with exit code 3"),
    "hangs": ("all(1 for _ in iter(int, 1))", "Slow at "),
    "raises": ("raise KeyError(data)", "KeyError at "),
    "takes memory": ("bytearray(2**30 + 2**27)[::4096] = bytes(2**18 + 2**15)", "MemoryError at "),
}


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    functions = [f"def read_{at}(data):\n    if data == b'bad': {does}" for at, (does, _) in enumerate(DOES.values())]
    table = ", ".join(f"{name!r}: Reader(read_{at}, (b'good', b'bad'))" for at, name in enumerate(DOES))
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(BENCHMARKS)!r})
import fuzz, _fuzz_readers
from _fuzz_readers import Reader
{chr(10).join(functions)}
_fuzz_readers.readers = lambda folder: {{{table}}}
sys.argv = ["fuzz.py", "--inputs", "2", "--seconds", "4", "--findings", {str(tmp_path)!r}]
sys.exit(fuzz.main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "12 inputs, 6 findings (bar: 0)" in done.stdout, done.stdout + done.stderr
    saved = sorted(path for path in (tmp_path / "chance").iterdir() if path.suffix == "" and path.name != "output")
    assert [path.read_bytes() for path in saved] == [b"bad"] * len(DOES)
    for path, (name, (_, finding)) in zip(saved, DOES.items(), strict=True):
        assert path.with_suffix(".txt").read_text(encoding="utf-8").startswith(f"{name}\n{finding}")


def test_the_same_bytes_make_the_same_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from _fuzz_inputs import Choices, altered, mutated

    document = {"a": [1, {"b": None}], "c": "x"}
    assert altered(document, Choices(b"")) == document
    data = [random.Random(seed).randbytes(40) for seed in range(50)]
    made = [repr(altered(document, Choices(one))) for one in data]
    assert made == [repr(altered(document, Choices(one))) for one in data] and len(set(made)) > 30
    assert mutated(b"abc", b"d", random.Random(1)) == mutated(b"abc", b"d", random.Random(1)) != b"abc"


def test_kept_inputs_are_of_readers_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import _fuzz_readers
    import fuzz

    known = _fuzz_readers.readers(tmp_path)
    kept = fuzz.kept_seeds()
    assert kept and set(kept) <= set(known) and all(kept.values())
