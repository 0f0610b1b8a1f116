"""Cells of a comparison with one seed each: where a run lies, and one attempt at it.

A run's folder is named by the method and the digest of its whole configuration: a changed setting
is another folder, and two suites that share a run (tables 4 and 7 do) share its folder. So the same
command goes on where it was interrupted, and nothing is run twice or overwritten. A lock file
beside the folder lets many processes, also on several machines, share one comparison.
"""

import json
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from federation.comparison.memory import PeakMemory
from federation.comparison.suite import Suite, SuiteError
from federation.experiment.checkpoint import has_checkpoint
from federation.experiment.config import ExperimentConfig, method_name
from federation.experiment.loop import RunCallbacks, run_experiment, with_seed
from federation.experiment.run_folder import RunFolder
from federation.experiment.setup import SetupError
from federation.experiment.training_code import training_code_digest
from physical.datasets import DataError

COST, FAILURE = "cost.json", "failure.json"
Rounds = Callable[[int, int], None]  # told how many rounds are finished, and of how many
_DIGITS = 12  # of the digest in a folder's name


@dataclass(frozen=True)
class Run:
    """One cell with one seed.

    Args:
        experiment: Title of the experiment.
        label: Of the cell.
        seed: Of everything random.
        config: The experiment, with its seed.
        path: Its run folder.
    """

    experiment: str
    label: str
    seed: int
    config: ExperimentConfig
    path: Path

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.label}, {self.experiment}, seed {self.seed}"

    @property
    def is_finished(self) -> bool:
        """Whether its results are there."""
        return RunFolder(self.path).results.is_file()

    @property
    def is_by_todays_code(self) -> bool:
        """Whether it has finished, and all of it was trained by the code of this program.

        Results of older versions do not say which code made them: not by today's.
        """
        if not self.is_finished:
            return False
        made_by = RunFolder(self.path).read_json("results.json").get("made_by", [])
        today = training_code_digest(self.config.method)
        return bool(made_by) and all(each["training_code"] == today for each in made_by)

    @property
    def failure(self) -> str | None:
        """Why its last attempt failed, in one line; none where it did not."""
        place = self.path / FAILURE
        if self.is_finished or not place.is_file():
            return None
        return str(json.loads(place.read_text(encoding="utf-8"))["error"])


@dataclass(frozen=True)
class SuiteCallbacks:
    """Who is told what while a suite runs; all optional.

    Args:
        begin: A run, before its first round.
        rounds: A run, how many of its rounds are finished, and how many it has.
        done: A run that finished.
        failed: A run that did not, and why.
    """

    begin: Callable[[Run], None] = lambda run: None
    rounds: Callable[[Run, int, int], None] = lambda run, done, total: None
    done: Callable[[Run], None] = lambda run: None
    failed: Callable[[Run, str], None] = field(default=lambda run, reason: None)


def plan_runs(
    suite: Suite, seeds: Sequence[int], out: Path, only: Sequence[str] = ()
) -> tuple[Run, ...]:
    """Return every run of a suite, one whole comparison per seed after the other.

    Args:
        suite: The comparison.
        seeds: One run of each cell per seed.
        out: Where comparisons are kept; runs lie in ``out/runs``.
        only: Labels of the cells to run; empty: all.

    Raises:
        SuiteError: If ``only`` names a cell that does not exist.
    """
    labels = [cell.label for cell in suite.config.cells]
    unknown = [label for label in only if label not in labels]
    if unknown:
        raise SuiteError(
            f"--only names {unknown[0]!r}; the cells of {suite.name} are {', '.join(labels)}"
        )
    return tuple(
        _run_of(suite, experiment.title, cell.label, seed, out)
        for seed in seeds
        for experiment, cell in suite.pairs()
        if not only or cell.label in only
    )


def _run_of(suite: Suite, experiment: str, label: str, seed: int, out: Path) -> Run:
    config = with_seed(suite.configs[experiment, label], seed)
    name = f"{method_name(config.method)}-{config.digest().removeprefix('sha256:')[:_DIGITS]}"
    return Run(experiment, label, seed, config, out / "runs" / name / f"seed-{seed}")


def put_aside_changed(runs: Sequence[Run]) -> int:
    """Put aside finished runs that other code made, so that they are run again.

    Nothing is deleted: the folder of seed 1 becomes ``seed-1.other-code-1``. A run that another
    process is at is left to it.

    Returns:
        How many were put aside.
    """
    num_moved = 0
    for path, run in {run.path: run for run in runs}.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout), _lock(run).acquire(blocking=False):
            if run.is_finished and not run.is_by_todays_code:
                path.rename(_new_place(path))
                num_moved += 1
    return num_moved


def _new_place(path: Path) -> Path:
    places = (path.with_name(f"{path.name}.other-code-{number}") for number in count(1))
    return next(place for place in places if not place.exists())


def _lock(run: Run) -> FileLock:
    return FileLock(run.path.with_name(f".{run.path.name}.lock"))


class RunTakenError(RuntimeError):
    """A run that another process is at."""


def attempt(
    run: Run, data_dir: Path | None, rounds: Rounds, *, patient: bool = False
) -> str | None:
    """Run one; return why it failed, in one line, or nothing.

    Args:
        run: The run. One that another process finishes meanwhile counts as done.
        data_dir: Where the user keeps data files.
        rounds: Called with the number of finished rounds and of all.
        patient: Wait while another process is at it; otherwise that is an error.

    Raises:
        RunTakenError: If another process is at it.
        DataError: If the data cannot be had.
        SetupError: If there is nothing to measure on.
    """
    run.path.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(run)
    try:
        lock.acquire(blocking=patient)
    except Timeout:
        raise RunTakenError(run.name) from None
    try:
        if not run.is_finished:
            _run_one(run, data_dir, rounds)
    except (DataError, SetupError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        RunFolder(run.path).write_json(
            FAILURE, {"error": reason, "traceback": traceback.format_exc()}
        )
        return reason
    finally:
        lock.release()
    return None


def _run_one(run: Run, data_dir: Path | None, rounds: Rounds) -> None:
    folder = RunFolder(run.path)
    has_rounds = has_checkpoint(folder.checkpoints)
    if folder.path.exists() and not has_rounds:
        shutil.rmtree(folder.path)  # begun, but not one round was finished
    memory = PeakMemory()
    try:
        with memory:
            run_experiment(
                run.config,
                run.path,
                resume=has_rounds,
                data_dir=data_dir,
                callbacks=_callbacks(run.config, rounds),
            )
    finally:
        if folder.path.exists():
            _note_cost(folder, memory.megabytes)
    # It will never be resumed, and a suite has many runs.
    shutil.rmtree(folder.checkpoints, ignore_errors=True)


def _callbacks(config: ExperimentConfig, rounds: Rounds) -> RunCallbacks:
    total = config.scenario.num_tasks * config.scenario.rounds_per_task

    def record(entry: Mapping[str, Any]) -> None:
        if entry["kind"] == "round":
            rounds(entry["round"] + 1, total)

    return RunCallbacks(begin=lambda config, scenario, done: rounds(done, total), record=record)


def _note_cost(folder: RunFolder, megabytes: float | None) -> None:
    """Write what the run needed.

    The peak of an interrupted run and its second part is the larger of the two.
    """
    before: Mapping[str, Any] = folder.read_json(COST) if (folder.path / COST).is_file() else {}
    peaks = [
        value for value in (before.get("peak_memory_megabytes"), megabytes) if value is not None
    ]
    folder.write_json(COST, {"peak_memory_megabytes": max(peaks, default=None)})
