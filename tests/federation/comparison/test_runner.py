import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from federation.comparison.cells import Run, SuiteCallbacks, plan_runs
from federation.comparison.outcomes import read_outcome
from federation.comparison.runner import run_missing
from federation.comparison.suite import SuiteError, load_suite
from federation.methods.fedavg import FedAvg
from physical.datasets import DataError


@pytest.fixture
def finetune(write_suite: Callable[..., Any], tmp_path: Path) -> Run:
    suite = load_suite(write_suite())
    return plan_runs(suite, [1], tmp_path / "out", ["finetune"])[0]


def test_runs_are_planned_one_whole_comparison_per_seed(compared: tuple[Any, ...]) -> None:
    _suite, runs, _, out = compared
    assert [(run.seed, run.label) for run in runs] == [
        (seed, label) for seed in (1, 2) for label in ("finetune", "FedKA", "joint")
    ]
    assert len({run.path for run in runs}) == 6 and all(out in run.path.parents for run in runs)
    assert all(run.config.seed == run.seed for run in runs)


def test_what_is_finished_is_not_run_again(compared: tuple[Any, ...]) -> None:
    _, runs, _, _ = compared
    started: list[Any] = []
    assert (
        run_missing(
            [run for run in runs if run.label != "joint"],
            callbacks=SuiteCallbacks(begin=started.append),
        )
        == 0
    )
    assert started == []


def test_two_cells_with_one_configuration_share_a_run(
    compared: tuple[Any, ...], write_suite: Callable[..., Any]
) -> None:
    _suite, runs, _, out = compared
    twice = load_suite(write_suite(title="Another comparison of the same", metric="macro_f1"))
    assert [run.path for run in plan_runs(twice, (1, 2), out)] == [run.path for run in runs]


def test_a_finished_run_is_an_ordinary_run_folder_without_checkpoints(
    compared: tuple[Any, ...],
) -> None:
    _, runs, _, _ = compared
    run = runs[0]
    assert (
        json.loads((run.path / "config.json").read_text())["config_digest"] == run.config.digest()
    )
    assert (run.path / "models" / "task-1" / "weights.safetensors").is_file() and not (
        run.path / "checkpoint"
    ).exists()
    assert json.loads((run.path / "cost.json").read_text())["peak_memory_megabytes"] > 50


def stop_in_round(number: int) -> SuiteCallbacks:
    def rounds(run: Run, done: int, total: int) -> None:
        if done == number + 1:
            raise KeyboardInterrupt

    return SuiteCallbacks(rounds=rounds)


@pytest.mark.parametrize("number", [0, 3])
def test_an_interrupted_comparison_goes_on_and_ends_as_an_uninterrupted_one(
    compared: tuple[Any, ...], finetune: Run, number: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_missing([finetune], callbacks=stop_in_round(number))
    assert not finetune.is_finished
    assert run_missing([finetune]) == 0
    assert (
        cast(Any, read_outcome(finetune)).by_task == cast(Any, read_outcome(compared[1][0])).by_task
    )


def test_a_run_that_raises_is_noted_and_the_others_go_on(
    finetune: Run, compared: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any) -> None:
        raise ZeroDivisionError("nothing to divide by")

    other = plan_runs(compared[0], [1], tmp_path / "out", ["FedKA"])[0]
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(FedAvg, "merge", wrong)
        assert (
            run_missing(
                [finetune, other],
                callbacks=SuiteCallbacks(failed=lambda run, why: said.append((run.label, why))),
            )
            == 1
        )
    assert other.is_finished and said == [("finetune", "ZeroDivisionError: nothing to divide by")]
    assert (
        finetune.failure == said[0][1]
        and "Traceback" in (finetune.path / "failure.json").read_text()
    )
    assert run_missing([finetune]) == 0 and finetune.failure is None


def test_data_that_cannot_be_had_stops_the_whole_comparison(
    finetune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import federation.comparison.cells as room

    def unreachable(*arguments: Any, **keywords: Any) -> None:
        raise DataError("no address answers")

    monkeypatch.setattr(room, "run_experiment", unreachable)
    with pytest.raises(DataError):
        run_missing([finetune])


def test_only_runs_cells_that_exist(compared: tuple[Any, ...], tmp_path: Path) -> None:
    with pytest.raises(
        SuiteError, match="--only names 'FedPro'; the cells of tiny are finetune, FedKA, joint"
    ):
        plan_runs(compared[0], [1], tmp_path, ["FedPro"])


def test_a_run_deleted_is_a_run_to_be_made_again(finetune: Run) -> None:
    run_missing([finetune])
    shutil.rmtree(finetune.path)
    assert not finetune.is_finished and read_outcome(finetune) is None


@pytest.mark.slow
def test_runs_side_by_side_give_what_runs_one_after_the_other_give(
    compared: tuple[Any, ...], write_suite: Callable[..., Any], tmp_path: Path
) -> None:
    runs = plan_runs(load_suite(write_suite()), [1, 2], tmp_path / "out", ["finetune"])
    said = {"begun": [], "rounds": [], "done": []}  # type: ignore[var-annotated]  # any
    callbacks = SuiteCallbacks(
        begin=lambda run: said["begun"].append(run.seed),
        rounds=lambda run, done, total: said["rounds"].append((run.seed, done, total)),
        done=lambda run: said["done"].append(run.seed),
    )
    assert run_missing(runs, callbacks=callbacks, at_once=2) == 0
    assert sorted(said["begun"]) == sorted(said["done"]) == [1, 2]
    assert {(1, 0, 6), (2, 0, 6)} <= set(said["rounds"])
    alone = [run for run in compared[1] if run.label == "finetune"]
    assert [cast(Any, read_outcome(run)).by_task for run in runs] == [
        cast(Any, read_outcome(run)).by_task for run in alone
    ]


@pytest.mark.slow
def test_an_interrupt_ends_runs_side_by_side_and_they_go_on_later(
    compared: tuple[Any, ...], write_suite: Callable[..., Any], tmp_path: Path
) -> None:
    runs = plan_runs(load_suite(write_suite()), [1], tmp_path / "out", ["finetune"])
    with pytest.raises(KeyboardInterrupt):
        run_missing(runs, callbacks=stop_in_round(1), at_once=2)
    assert not runs[0].is_finished and any((runs[0].path / "checkpoint").glob("round-*"))
    assert run_missing(runs, at_once=2) == 0
    assert (
        cast(Any, read_outcome(runs[0])).by_task == cast(Any, read_outcome(compared[1][0])).by_task
    )
