"""Where SUBSPECT_CI is set, a test that is skipped or expected to fail has failed, but for want of a GPU or of real data."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

NO_CUDA = "needs a CUDA device"
NO_DATA = "real data not found: set SUBSPECT_DATA to its folder"
ALLOWED = (NO_CUDA, NO_DATA)


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test or a whole file was skipped."""
    return report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)


def refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a report of what may not be skipped, nor be expected to fail, into one of a failure."""
    if not os.environ.get("SUBSPECT_CI"):
        return
    if hasattr(report, "wasxfail"):
        why = f"expected to fail ({report.wasxfail}), and nothing may be here: mend it or leave it out"
        del report.wasxfail
    elif report.skipped and reason_of(report) not in ALLOWED:
        why = f"skipped, and nothing may be here but for want of a GPU or of real data: {reason_of(report)}"
    else:
        return
    report.outcome, report.longrepr = "failed", why


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    refuse(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    refuse(report)
    return report
