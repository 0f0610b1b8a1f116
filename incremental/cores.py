"""CPU cores of this process: count them, and let torch use all of them for a while."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def all_cores() -> Iterator[None]:
    """Let torch use every core of this process inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(available_cores(), before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
