"""How many threads compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep to one thread while the block runs, in PyTorch and in NumPy's and SciPy's libraries.

    For work in small pieces: threads that wait for each other at the end of every piece take five times as long as one
    where other programs use the same cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
