import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
TINY = str(ROOT / "hospital_configs" / "phantom_tiny")
QUICK = ["--set", "training.epochs=1", "--set", "tracking.enabled=false"]


def fedka(*arguments: Any, cwd: Path, **environment: Any) -> CompletedProcess:
    command = [sys.executable, "-m", "federation", *map(str, arguments)]
    full = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "160",
        **environment,
    }
    return subprocess.run(
        command, cwd=cwd, env=full, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    folder = tmp_path_factory.mktemp("cli")
    return folder, fedka("run", TINY, "--out", folder / "run", "--seed", "2", *QUICK, cwd=folder)


def test_a_run_shows_rounds_tasks_and_a_closing_table_and_writes_its_report(
    run: tuple[Any, ...],
) -> None:
    folder, done = run
    assert done.returncode == 0, done.stderr
    assert "round   6" in done.stdout and "task 2 done" in done.stdout
    assert "average accuracy" in done.stdout and "boundaries at once" in done.stdout
    assert (folder / "run" / "report.html").read_text().startswith("<!")
    assert json.loads((folder / "run" / "results.json").read_text())["seed"] == 2


def test_twins_of_the_run_can_be_asked_for_their_state_and_history(run: tuple[Any, ...]) -> None:
    folder, _ = run
    table = fedka("twins", folder / "run", cwd=folder)
    assert all(name in table.stdout for name in ("north", "east", "south", "west"))
    plain = json.loads(fedka("twins", folder / "run", "--json", cwd=folder).stdout)
    assert {each["twin"] for each in plain} == {"north", "east", "south", "west"}
    one = fedka("twins", folder / "run", "--twin", "west", cwd=folder)
    assert "joined the federation" in one.stdout
    unknown = fedka("twins", folder / "run", "--twin", "wets", cwd=folder)
    assert unknown.returncode == 2 and "no twin 'wets'" in unknown.stderr


def test_a_second_run_into_the_same_folder_is_refused_and_resuming_is_offered(
    run: tuple[Any, ...],
) -> None:
    folder, _ = run
    again = fedka("run", TINY, "--out", folder / "run", "--seed", "2", *QUICK, cwd=folder)
    assert (
        again.returncode == 2
        and "go on with --resume" in again.stderr
        and "Traceback" not in again.stderr
    )


def test_ctrl_c_says_how_to_go_on_and_going_on_ends_the_run(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "federation",
        "run",
        TINY,
        "--out",
        "run",
        "--seed",
        "2",
        *QUICK,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as running:
        shown = ""
        for line in running.stdout:
            shown += line
            if line.startswith("round   2"):
                running.send_signal(signal.SIGINT)
    assert running.returncode == 130 and "--resume" in shown
    done = fedka("run", TINY, "--out", "run", "--seed", "2", *QUICK, "--resume", cwd=tmp_path)
    assert done.returncode == 0 and "resumed at round" in done.stdout


def test_check_accepts_every_shipped_experiment() -> None:
    folders = sorted(path.parent for path in (ROOT / "hospital_configs").glob("*/experiment.yaml"))
    done = fedka("check", *folders, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.count("ok ") == len(folders), done.stderr


def test_an_error_of_the_user_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text(
        (ROOT / "hospital_configs/organa_demo/experiment.yaml").read_text() + "sed: 3\n"
    )
    done = fedka("check", tmp_path, cwd=tmp_path)
    assert (
        done.returncode == 2
        and "sed is not a known key" in done.stderr
        and "Did you mean 'seed'?" in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_a_wrong_option_suggests_the_right_one(tmp_path: Path) -> None:
    done = fedka("run", TINY, "--out", "x", "--sed", "3", cwd=tmp_path)
    assert done.returncode == 2 and "--seed" in done.stderr


def test_methods_shows_papers_hyper_parameters_and_what_is_uploaded(tmp_path: Path) -> None:
    done = fedka("methods", cwd=tmp_path)
    assert (
        "semantic_weight = 1.0" in done.stdout
        and "uploads: weights of the local model" in done.stdout
    )
    assert "McMahan" in done.stdout
