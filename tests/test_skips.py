"""In CI nothing is skipped unseen: only a missing GPU and missing real data excuse a test, and nothing excuses an xfail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skips import NO_CUDA, NO_DATA

TESTS = f"""
import pytest

@pytest.mark.skipif(True, reason={NO_CUDA!r})
def test_cuda(): ...

@pytest.fixture
def data():
    pytest.skip({NO_DATA!r})

def test_data(data): ...

@pytest.mark.skip(reason="no browser")
def test_mark(): ...

def test_call():
    pytest.skip("no browser")

@pytest.mark.xfail(reason="known")
def test_xfail():
    assert False

@pytest.mark.xfail(reason="known")
def test_xpass(): ...

def test_passes(): ...
"""


@pytest.mark.parametrize(
    ("ci", "code", "counts"),
    [
        ("", 0, "1 passed, 5 skipped, 1 xfailed, 1 xpassed"),
        ("1", 1, "3 failed, 1 passed, 2 skipped, 2 errors"),
    ],
)
def test_what_is_skipped_in_ci_has_failed(tmp_path: Path, ci: str, code: int, counts: str) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_whole.py").write_text("import pytest\npytest.importorskip('nothing_of_this_name')\n")
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "skips",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        ".",
    ]
    paths = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    env = {**os.environ, "SUBSPECT_CI": ci, "PYTHONPATH": paths}
    done = subprocess.run([*line, "-rfEs"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == code and f"= {counts} in " in done.stdout, done.stdout + done.stderr
    for name in ("test_mark", "test_call", "test_xfail", "test_xpass"):
        assert (f" test_some.py::{name} - " in done.stdout) == bool(ci)
    if ci:
        assert "skipped, and nothing may be here but for want of a GPU or of real data: no browser" in done.stdout
        assert "expected to fail (known)" in done.stdout and "ERROR test_whole.py" in done.stdout
        assert f"SKIPPED [1] test_some.py:4: {NO_CUDA}" in done.stdout
