from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from federation.cli.data import app
from physical.datasets import fetch_dataset


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, list(words))


def test_list_names_every_data_set(run: Callable[..., Any]) -> None:
    result = run("list")
    assert result.exit_code == 0
    assert "organamnist" in result.stdout
    assert "phantom_sagittal" in result.stdout


def test_show_counts_classes_only_when_the_files_are_at_hand(run: Callable[..., Any]) -> None:
    before = run("show", "phantom_coronal")
    assert before.exit_code == 0
    assert "fedka data fetch phantom_coronal" in before.stdout
    fetch_dataset("phantom_coronal")
    assert "Images of each class" in run("show", "phantom_coronal").stdout


def test_fetch_reports_its_steps(run: Callable[..., Any]) -> None:
    result = run("fetch", "phantom_sagittal")
    assert result.exit_code == 0
    assert "phantom_sagittal: ready" in result.stdout


@pytest.mark.parametrize("command", ["show", "fetch"])
def test_unknown_name_ends_with_code_2_and_a_suggestion(
    run: Callable[..., Any], command: str
) -> None:
    result = run(command, "organamnst")
    assert result.exit_code == 2
    assert "did you mean 'organamnist'?" in result.stderr
    assert "Traceback" not in result.output


def test_folder_that_is_not_there_ends_with_code_2(run: Callable[..., Any], tmp_path: Path) -> None:
    for words in (("list",), ("show", "phantom_axial"), ("fetch", "phantom_axial")):
        result = run(*words, "--data-dir", str(tmp_path / "nowhere"))
        assert result.exit_code == 2
        assert "no such folder" in result.stderr
