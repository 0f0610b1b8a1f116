"""Runs what a comparison still misses, one run after the other or several at a time."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from federation.comparison.cells import Run, RunTakenError, SuiteCallbacks, attempt
from federation.comparison.side_by_side import run_side_by_side


def run_missing(
    runs: Sequence[Run],
    data_dir: Path | None = None,
    callbacks: SuiteCallbacks | None = None,
    at_once: int = 1,
) -> int:
    """Run what has no results yet, and wait for what other processes are at.

    A run that raises is noted in its folder and does not stop the others; one whose data cannot be
    had does, since the others have the same data.

    Args:
        runs: In the order in which they are begun.
        data_dir: Where the user keeps data files.
        callbacks: Who is told.
        at_once: Runs side by side; 1: one after the other, each with the engine of its
            configuration.

    Returns:
        How many failed.
    """
    told = callbacks or SuiteCallbacks()
    # Two cells may share a run.
    missing = list({run.path: run for run in runs if not run.is_finished}.values())
    num_failed = 0
    if at_once > 1:
        num_failed, missing = run_side_by_side(missing, at_once, data_dir, told)
    taken = []
    for run in missing:
        try:
            num_failed += _run(run, data_dir, told, patient=False)
        except RunTakenError:
            taken.append(run)
    return num_failed + sum(_run(run, data_dir, told, patient=True) for run in taken)


def _run(run: Run, data_dir: Path | None, told: SuiteCallbacks, *, patient: bool) -> int:
    """Run one, tell of it, and return 1 if it failed."""
    if run.is_finished:
        return 0
    told.begin(run)
    reason = attempt(run, data_dir, partial(told.rounds, run), patient=patient)
    if reason is None:
        told.done(run)
        return 0
    told.failed(run, reason)
    return 1
