"""Results that other code made are named, and run again when asked; nothing is deleted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from federation.comparison import cells
from federation.comparison.cells import Run, plan_runs, put_aside_changed
from federation.comparison.display import closing_lines
from federation.comparison.outcomes import collect, read_outcome
from federation.comparison.suite import Suite, load_suite
from federation.comparison.summary import summary
from federation.experiment import loop
from federation.experiment.run_folder import RunFolder


@pytest.fixture
def finished(
    compared: tuple[Any, ...], write_suite: Callable[..., Any], tmp_path: Path
) -> tuple[Suite, Run]:
    """Copy a finished run into a comparison of its own."""
    suite = load_suite(write_suite())
    run = plan_runs(suite, [1], tmp_path / "out", ["finetune"])[0]
    shutil.copytree(compared[1][0].path, run.path)
    return suite, run


def change_results(run: Run, **more: Any) -> None:
    place = run.path / "results.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **more}))


def by_other_code(run: Run) -> None:
    change_results(run, made_by=[{"code_version": "abc", "training_code": "0" * 16}])


def test_a_new_result_is_by_todays_code(finished: tuple[Suite, Run]) -> None:
    suite, run = finished
    assert run.is_by_todays_code and put_aside_changed([run]) == 0
    text = summary(suite, collect(suite, [run]), [1], ["fedka", "compare"], [])
    assert "other code" not in text


def test_summary_and_terminal_name_results_that_other_code_made(
    finished: tuple[Suite, Run],
) -> None:
    suite, run = finished
    by_other_code(run)
    blocks = collect(suite, [run])
    text = summary(suite, blocks, [1], ["fedka", "compare"], [])
    assert "## Made by other code" in text and "- finetune, phantom_tiny: seed 1\n" in text
    told = [each for each in closing_lines(suite, blocks, run.path, 200) if isinstance(each, str)]
    assert any("1 of 1 results were made by other code" in each for each in told)


def test_results_that_do_not_say_what_made_them_are_not_by_todays_code(
    finished: tuple[Suite, Run],
) -> None:
    change_results(finished[1], made_by=[])
    outcome = read_outcome(finished[1])
    assert outcome is not None and not outcome.by_todays_code and len(outcome.code_versions) == 1


def test_a_result_that_was_begun_by_other_code_is_not_by_todays(
    finished: tuple[Suite, Run],
) -> None:
    _, run = finished
    made_by = RunFolder(run.path).read_json("results.json")["made_by"]
    change_results(run, made_by=[{"code_version": "abc", "training_code": "0" * 16}, *made_by])
    outcome = read_outcome(run)
    assert outcome is not None and not outcome.by_todays_code and outcome.code_versions[0] == "abc"


def test_a_result_of_other_code_is_put_aside_once_and_kept(finished: tuple[Suite, Run]) -> None:
    _, run = finished
    by_other_code(run)
    assert put_aside_changed([run, run]) == 1 and not run.is_finished
    assert (run.path.with_name("seed-1.other-code-1") / "results.json").is_file()


def test_a_run_that_another_process_is_at_is_left_to_it(finished: tuple[Suite, Run]) -> None:
    _, run = finished
    by_other_code(run)
    with FileLock(run.path.with_name(f".{run.path.name}.lock")):
        assert put_aside_changed([run]) == 0
    assert run.is_finished


def test_a_run_that_is_resumed_by_other_code_says_so(
    write_suite: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plan_runs(load_suite(write_suite()), [1], tmp_path / "out", ["finetune"])[0]

    def stop(_run: int, done: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as other, pytest.raises(KeyboardInterrupt):
        other.setattr(loop, "training_code_digest", lambda method: "0" * 16)
        cells.attempt(run, None, lambda done, total: stop(total, done))
    assert cells.attempt(run, None, lambda done, total: None) is None
    made_by = RunFolder(run.path).read_json("results.json")["made_by"]
    assert [each["training_code"] == "0" * 16 for each in made_by] == [True, False]
    assert not run.is_by_todays_code
