"""Time of a piece of work by groups of operators, from torch's profiler.

An operator belongs to the nearest named range around it (optimiser, teacher, augmentation,
attention), else to the group of its own name; Python code inside such a range belongs to it too.
The rest of the wall time is Python's overhead: interpreter, data loading, the profiler itself.
"""

import contextlib
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import torch

from benchmarks.measuring import table, time_in_turns
from incremental.network import IncrementalNetwork

GROUPS = (
    "convolution forward",
    "convolution backward",
    "normalisation",
    "pointwise",
    "copies and casts",
    "optimiser",
    "augmentation",
    "teacher",
    "attention",
    "python overhead",
)
_REPEATS = 5
_RANGES = {
    "range: teacher": "teacher",
    "range: attention": "attention",
    "range: augmentation": "augmentation",
}
_COPIES = (
    "aten::copy_",
    "aten::_to_copy",
    "aten::to",
    "aten::clone",
    "aten::contiguous",
    "aten::cat",
    "aten::stack",
    "aten::index",
    "aten::fill_",
)


def group_of(name: str, ancestors: list[str]) -> str:
    """Return the group of an operator.

    Args:
        name: Name of the operator.
        ancestors: Names of the enclosing events, the nearest first.
    """
    for around in ancestors:
        if around in _RANGES:
            return _RANGES[around]
        if around.startswith("Optimizer."):
            return "optimiser"
        # the only batched matrix product is that of the closed form
        if "Bmm" in around or "bmm" in around or "einsum" in around.lower():
            return "attention"
    if "bmm" in name:
        return "attention"
    if "conv" in name:
        return "convolution backward" if "backward" in name else "convolution forward"
    if "batch_norm" in name or "group_norm" in name:
        return "normalisation"
    if name in _COPIES:
        return "copies and casts"
    return "pointwise"


def profile_table(title: str, work: Callable[[], object], steps: int) -> str:
    """Return the share of each group as Markdown.

    Args:
        title: Title of the table.
        work: Function that is called to warm up, to be timed, and to be profiled.
        steps: Number of optimiser steps in it.
    """
    plain = time_in_turns({"without the profiler": work}, _REPEATS)["without the profiler"]
    with _named_ranges():
        started = perf_counter()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            work()
            wall = perf_counter() - started
    seconds = dict.fromkeys(GROUPS, 0.0)
    for event in profile.events() or []:
        if event.name in _RANGES or event.name.startswith("Optimizer."):
            seconds[_RANGES.get(event.name, "optimiser")] += event.self_cpu_time_total / 1e6
        elif event.name.startswith(("aten::", "mkldnn::")):
            seconds[group_of(event.name, _ancestors(event))] += event.self_cpu_time_total / 1e6
    seconds["python overhead"] = max(wall - sum(seconds.values()), 0.0)
    rows: list[tuple[str, str, str]] = [
        (group, f"{each / wall:.1%}", f"{plain * each / wall / steps * 1e3:.2f}")
        for group, each in seconds.items()
    ]
    rows.append(("all", "100.0%", f"{plain / steps * 1e3:.2f}"))
    note = (
        f"\nShares under the profiler, which made it {wall / plain:.2f} times slower; "
        "milliseconds are those shares of the time without it."
    )
    return table((title, "share", "ms of a step"), rows) + "\n" + note


def _ancestors(event: Any) -> list[str]:
    names, at = [], event.cpu_parent
    while at is not None:
        names.append(at.name)
        at = at.cpu_parent
    return names


@contextlib.contextmanager
def _named_ranges() -> Iterator[None]:
    """Add profiler ranges around teacher, attention and augmentation; skip missing functions."""
    import federation.methods.fedka
    import twin.batches
    from benchmarks.reference import PlainDataset, PlainLoss

    with contextlib.ExitStack() as stack:
        for holder, name, label in (
            (federation.methods.fedka, "attention", "attention"),
            (twin.batches, "augment", "augmentation"),
            (twin.batches, "to_unit", "augmentation"),
            (PlainLoss, "_teacher_outputs", "teacher"),
            (PlainLoss, "_student_maps", "attention"),
            (PlainDataset, "__getitem__", "augmentation"),
        ):
            stack.enter_context(_wrapped(holder, name, f"range: {label}"))
        stack.enter_context(
            _wrapped(
                IncrementalNetwork, "__call__", "range: teacher", lambda args: not args[0].training
            )
        )
        yield


@contextlib.contextmanager
def _wrapped(
    holder: Any, name: str, label: str, when: Callable[[Any], bool] = lambda args: True
) -> Iterator[None]:
    inner = getattr(holder, name, None)
    if inner is None:
        yield
        return
    own = name in vars(holder)

    def outer(*args: Any, **kwargs: Any) -> Any:
        if not when(args):
            return inner(*args, **kwargs)
        with torch.profiler.record_function(label):
            return inner(*args, **kwargs)

    setattr(holder, name, outer)
    try:
        yield
    finally:
        if own:
            setattr(holder, name, inner)
        else:
            delattr(holder, name)
