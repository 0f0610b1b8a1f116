"""Several runs of a comparison at a time, each in a worker process that stays for the next run.

Two trainings with one thread each are quicker than one with two, and a run by itself leaves cores
idle wherever it waits for its slowest twin. Results do not depend on where twins run, so here each
run has its twins one after the other, in its own process.
"""

import multiprocessing
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from federation.comparison.cells import (
    Rounds,
    Run,
    RunTakenError,
    SuiteCallbacks,
    attempt,
)

_SECONDS_BETWEEN = 0.2  # looks at what the workers say


def run_side_by_side(
    runs: Sequence[Run], at_once: int, data_dir: Path | None, callbacks: SuiteCallbacks
) -> tuple[int, list[Run]]:
    """Run these, several at a time.

    Args:
        runs: None of them finished.
        at_once: Worker processes; times the threads of a run, it should not exceed the cores.
        data_dir: Where the user keeps data files.
        callbacks: Who is told; called in this process.

    Returns:
        How many failed, and runs that other processes are at.

    Raises:
        DataError: If the data cannot be had; what is under way is ended, to be resumed.
        SetupError: If there is nothing to measure on; likewise.
    """
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    pool = ProcessPoolExecutor(at_once, context, _start_worker, (said,))
    waiting: dict[Future[str | None], int] = {}
    num_failed, taken = 0, []
    try:
        for index, run in enumerate(runs):
            waiting[pool.submit(_attempt_in_worker, index, run, data_dir)] = index
        while waiting:
            done, _ = wait(waiting, timeout=_SECONDS_BETWEEN, return_when=FIRST_COMPLETED)
            for index, rounds in _drain(said):
                if rounds is None:
                    callbacks.begin(runs[index])
                else:
                    callbacks.rounds(runs[index], *rounds)
            for future in done:
                run = runs[waiting.pop(future)]
                try:
                    reason = future.result()
                except RunTakenError:
                    taken.append(run)
                    continue
                if reason is None:
                    callbacks.done(run)
                else:
                    num_failed += 1
                    callbacks.failed(run, reason)
    except BaseException:
        _end(pool)
        raise
    pool.shutdown()
    return num_failed, taken


def _drain(
    said: "multiprocessing.queues.Queue[Any]",
) -> Iterator[tuple[int, tuple[int, int] | None]]:
    while True:
        try:
            yield said.get_nowait()
        except queue.Empty:
            return


def _end(pool: ProcessPoolExecutor) -> None:
    """End the workers at once.

    Each run's last finished round is saved, and the same command goes on from there.
    """
    workers = list((pool._processes or {}).values())  # Python 3.14 has terminate_workers for this
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()


# What a worker says things into, set once when it starts: a pool's tasks have no other place for
# it.
_say: Callable[[tuple[int, tuple[int, int] | None]], None] | None = None


def _start_worker(said: "multiprocessing.queues.Queue[Any]") -> None:
    global _say  # noqa: PLW0603
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    _say = said.put


def _attempt_in_worker(index: int, run: Run, data_dir: Path | None) -> str | None:
    assert _say is not None
    say = _say
    say((index, None))
    here = replace(
        run, config=replace(run.config, engine=replace(run.config.engine, name="sequential"))
    )
    rounds: Rounds = lambda done, total: say((index, (done, total)))  # noqa: E731
    return attempt(here, data_dir, rounds)
