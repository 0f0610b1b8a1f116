import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from typer import Typer
from typer.testing import CliRunner, Result

from federation.cli.compare import compare

ROOT = Path(__file__).parents[3]
MAIN = (
    "import typer; from federation.cli.compare import compare; app = typer.Typer(); "
    "app.command('compare')(compare); app()"
)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    place = tmp_path / "two.yaml"
    experiment = {
        "folder": str(ROOT / "hospital_configs" / "phantom_tiny"),
        "changes": ["training.epochs=1"],
    }
    cells = [
        {"label": "finetune", "method": "fedavg"},
        {"label": "replay", "method": {"name": "fedavg", "memory": True}},
    ]
    place.write_text(
        yaml.safe_dump(
            {"title": "Two", "reference": "finetune", "experiments": [experiment], "cells": cells}
        )
    )
    return place


def call(*words: Any) -> Result:
    app = Typer()
    app.command()(compare)
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


def test_a_comparison_from_the_command_line_and_again(suite: Path, tmp_path: Path) -> None:
    arguments = (suite, "--seeds", "1", "--out", tmp_path / "out", "--no-mlflow")
    first = call(*arguments)
    assert first.exit_code == 0, first.output
    assert "1 of 2" in first.output and "summary" in first.output
    again = call(*arguments)
    assert "2 of 2 runs are there already" in again.output
    assert (tmp_path / "out" / "two" / "summary.md").is_file()


def test_one_method_only_leaves_the_others_not_run(suite: Path, tmp_path: Path) -> None:
    done = call(suite, "--seeds", "1", "--out", tmp_path / "out", "--only", "replay", "--no-mlflow")
    assert done.exit_code == 0 and "not run" in done.output
    assert "| finetune | 0 | not run |" in (
        tmp_path / "out" / "two" / "table.md"
    ).read_text().replace("**", "")


def test_tables_only_runs_nothing(suite: Path, tmp_path: Path) -> None:
    done = call(suite, "--out", tmp_path / "out", "--tables-only")
    assert done.exit_code == 0 and not (tmp_path / "out" / "runs").exists()
    assert "0 of 6 runs" in (tmp_path / "out" / "two" / "summary.md").read_text()


@pytest.mark.parametrize("seeds", ["one", "1,1", "1;2", "-1"])
def test_seeds_that_are_none_are_one_clear_error(suite: Path, tmp_path: Path, seeds: str) -> None:
    done = call(suite, "--seeds", seeds, "--out", tmp_path / "out")
    assert done.exit_code == 2 and "--seeds is" in done.output


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(suite: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        MAIN,
        str(suite),
        "--seeds",
        "1,2",
        "--out",
        str(tmp_path / "out"),
        "--set",
        "training.epochs=30",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "400"}
    running = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with running:
        for line in cast(Any, running.stdout):
            if line.startswith("  1 of 4"):
                running.send_signal(signal.SIGINT)
                break
        assert running.stdout is not None
        rest = running.stdout.read()
    assert running.returncode == 130, rest
    assert "interrupted: 1 of 4 runs are finished" in rest and "--set training.epochs=30" in rest
    assert "1 of 4 runs are finished" in (tmp_path / "out" / "two" / "summary.md").read_text()
