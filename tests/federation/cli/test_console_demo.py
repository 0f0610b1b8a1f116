import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner


@pytest.fixture
def fedka() -> Callable[..., Any]:
    from federation.cli import _mount, app

    _mount()
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def demo(fedka: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *words: fedka("console", "demo", *words)


def test_a_port_in_use_is_reported_before_the_preparation(
    demo: Callable[..., Any], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = demo("--folder", tmp_path / "demo", "--port", taken.getsockname()[1])
    assert said.exit_code == 2 and "--port is" in said.stderr and not (tmp_path / "demo").exists()


def test_a_password_file_that_is_there_is_not_written_over(
    demo: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "passwords").write_text("mine")
    said = demo(
        "--folder", tmp_path / "demo", "--prepare-only", "--password-file", tmp_path / "passwords"
    )
    assert (
        said.exit_code == 2
        and "there already" in said.stderr
        and (tmp_path / "passwords").read_text() == "mine"
    )


def test_a_folder_of_another_console_is_refused(
    fedka: Callable[..., Any], demo: Callable[..., Any], tmp_path: Path
) -> None:
    fedka("console", "init", tmp_path / "mine", "--hospital", "east")
    with pytest.raises(
        ValueError, match="is the console of east; allowed: a demo of north, south, west"
    ):
        raise demo("--folder", tmp_path / "mine", "--prepare-only").exception
