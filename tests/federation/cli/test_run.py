import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from typer.testing import CliRunner, Result

ROOT = Path(__file__).parents[3]
TINY = str(ROOT / "hospital_configs" / "phantom_tiny")
QUICK = ["--set", "training.epochs=1", "--set", "tracking.enabled=false"]


ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "160",
}


def fedka(*arguments: object, cwd: Path) -> CompletedProcess[str]:
    """Run the program in a process of its own."""
    command = [sys.executable, "-m", "federation", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def fedka_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the program in this process, which is quicker."""
    from federation.cli import _mount, app

    _mount()
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("cli")
    return folder / "run", fedka("run", TINY, "--out", "run", "--seed", "2", *QUICK, cwd=folder)


def test_run_prints_rounds_tasks_and_a_closing_table_and_writes_its_report(
    finished_run: tuple[Path, CompletedProcess[str]],
) -> None:
    folder, done = finished_run
    assert done.returncode == 0, done.stderr
    assert "round   6" in done.stdout and "task 2 done" in done.stdout
    assert "average accuracy" in done.stdout and "boundaries at once" in done.stdout
    assert (folder / "report.html").read_text().startswith("<!")
    assert json.loads((folder / "results.json").read_text())["seed"] == 2


def test_twins_command_prints_state_and_history_of_the_twins(
    finished_run: tuple[Path, CompletedProcess[str]], fedka_here: Callable[..., Result]
) -> None:
    folder, _ = finished_run
    table = fedka_here("twins", folder)
    assert all(name in table.stdout for name in ("north", "east", "south", "west"))
    plain = json.loads(fedka_here("twins", folder, "--json").stdout)
    assert {each["twin"] for each in plain} == {"north", "east", "south", "west"}
    one = fedka_here("twins", folder, "--twin", "west")
    assert "joined the federation" in one.stdout
    unknown = fedka_here("twins", folder, "--twin", "wets")
    assert unknown.exit_code == 2 and "no twin 'wets'" in unknown.stderr


def test_second_run_into_the_same_folder_is_refused_and_resuming_is_suggested(
    finished_run: tuple[Path, CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = finished_run
    again = fedka("run", TINY, "--out", folder, "--seed", "2", *QUICK, cwd=tmp_path)
    assert again.returncode == 2
    assert "go on with --resume" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_prints_how_to_resume_and_resuming_finishes_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    arguments = ["run", TINY, "--out", "run", "--seed", "2", *QUICK]
    with subprocess.Popen(
        [sys.executable, "-m", "federation", *arguments],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        shown = ""
        for line in running.stdout:
            shown += line
            if line.startswith("round   2"):
                running.send_signal(number)
    assert running.returncode == 130 and "--resume" in shown
    done = fedka(*arguments, "--resume", cwd=tmp_path)
    assert done.returncode == 0 and "resumed at round" in done.stdout


def test_check_accepts_every_shipped_experiment() -> None:
    folders = sorted(path.parent for path in (ROOT / "hospital_configs").glob("*/experiment.yaml"))
    done = fedka("check", *folders, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.count("ok ") == len(folders), done.stderr


def test_user_error_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text(
        (ROOT / "hospital_configs/organa_demo/experiment.yaml").read_text() + "sed: 3\n"
    )
    done = fedka("check", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "sed is not a known key" in done.stderr
    assert "Did you mean 'seed'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_option_suggests_the_right_one(tmp_path: Path) -> None:
    done = fedka("run", TINY, "--out", "x", "--sed", "3", cwd=tmp_path)
    assert done.returncode == 2 and "--seed" in done.stderr


def test_methods_command_prints_papers_hyper_parameters_and_uploads(
    fedka_here: Callable[..., Result],
) -> None:
    shown = fedka_here("methods").stdout
    assert "semantic_weight = 1.0" in shown
    assert "uploads: weights of the local model" in shown
    assert "McMahan" in shown
