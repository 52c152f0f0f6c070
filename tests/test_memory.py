"""How much memory a command may take, and that nothing but time depends on it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from subspect import SubspectError, memory_limit
from subspect.ground import memory


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4G", 4 * 2**30),
        ("500M", 500 * 2**20),
        ("0.5 GB", 2**29),
        ("100mib", 100 * 2**20),
        (2**27, 2**27),
        ("1t", 2**40),
    ],
)
def test_sizes(text: str | int, size: int) -> None:
    with memory_limit(text):
        assert memory.budget() == size
    assert memory.budget() == max(2**26, memory.free() // 4)


@pytest.mark.parametrize("text", ["", "much", "4X", "-4G", 0, "63M", True, "4G4", "nan", "1e9"])
def test_what_is_no_size(text: str | int) -> None:
    message = "memory .--memory. is a size of at least 64 MB, in bytes or such as 4G or 500M; got "
    with pytest.raises(SubspectError, match=message), memory_limit(text):
        pass


def test_limits_within_limits() -> None:
    with memory_limit("1G"):
        with pytest.raises(SubspectError), memory_limit("1"):
            pass
        with memory_limit("2G"):
            assert memory.budget() == 2 * 2**30
        assert memory.budget() == 2**30


def test_what_is_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert 0 < memory.free() < 2**50
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("2500000000\n")
    (tmp_path / "memory.stat").write_text("anon 900000000\nfile 1600000000\ninactive_file 1500000000\n")
    monkeypatch.setattr(memory, "_LIMITS", ((str(tmp_path / "memory"), ".max", ".current", "inactive_file"),))
    monkeypatch.setattr(memory, "_of_machine", lambda: 9_000_000_000)
    assert memory.free.__wrapped__() == 2_000_000_000  # files that were read are given up at need
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free.__wrapped__() == 9_000_000_000


_FAULTS = """
import resource
import numpy as np
from subspect.ground.memory import keep_freed
kept, before = keep_freed(), 0
for turn in range(40):
    if turn == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**23), np.ones(2**18)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_what_is_freed_is_kept_but_where_the_user_says_otherwise() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}

    def told(**more: str) -> list[str]:
        line = [sys.executable, "-c", _FAULTS]
        return subprocess.run(line, env=env | more, capture_output=True, text=True, check=True).stdout.split()

    kept, faults = told()
    assert kept == "True" and int(faults) < 16_384  # a block has as many pages
    kept, faults = told(MALLOC_TRIM_THRESHOLD_="131072")
    assert kept == "False" and int(faults) > 16_384
    assert told(GLIBC_TUNABLES="glibc.malloc.trim_threshold=131072")[0] == "False"
