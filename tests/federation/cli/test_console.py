import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from signal import Signals
from typing import Any

import psutil
import pytest
from typer.main import Typer
from typer.testing import CliRunner, Result

PASSWORD = "a long enough password"


@pytest.fixture(scope="module")
def app() -> Typer:
    from federation.cli import _mount
    from federation.cli import app as mounted

    _mount()
    return mounted


@pytest.fixture
def fedka(app: Typer) -> Callable[..., Any]:
    def run(*words: Any, given: str = "") -> Result:
        return CliRunner().invoke(app, [str(word) for word in words], input=given)

    return run


@pytest.fixture
def folder(fedka: Callable[..., Any], tmp_path: Path) -> Path:
    place = tmp_path / "console"
    done = fedka(
        "console",
        "init",
        place,
        "--hospital",
        "north",
        "--hospital",
        "south",
        "--name",
        "Test",
        "--http",
    )
    assert done.exit_code == 0, done.output
    return place


def add(
    fedka: Callable[..., Any],
    folder: Path,
    user: str = "ada",
    *words: Any,
    role: str = "clinician",
    given: str = PASSWORD + "\n",
) -> Result:
    words = words or ("--hospital", "north")
    command = ("users", "add", folder, user, "--role", role, *words, "--password-stdin")
    result: Result = fedka(*command, given=given)
    return result


def test_a_console_is_made_and_people_are_added(fedka: Callable[..., Any], folder: Path) -> None:
    assert add(fedka, folder).output == "added ada: clinician of north\n"
    fedka("users", "add", folder, "olu", "--role", "operator", "--password-stdin", given=PASSWORD)
    fedka("users", "disable", folder, "ada")
    plain = json.loads(fedka("users", "list", folder, "--json").output)
    assert [(each["user"], each["disabled"]) for each in plain] == [("ada", True), ("olu", False)]
    assert "ada" in fedka("users", "list", folder).output


def test_a_password_is_never_printed_or_stored(fedka: Callable[..., Any], folder: Path) -> None:
    output = (
        add(fedka, folder).output
        + fedka(
            "users", "password", folder, "ada", "--password-stdin", given=PASSWORD + "2\n"
        ).output
    )
    assert PASSWORD not in output
    assert all(
        PASSWORD.encode() not in path.read_bytes() for path in folder.rglob("*") if path.is_file()
    )


def test_without_a_terminal_the_password_must_be_piped_on_purpose(
    fedka: Callable[..., Any], folder: Path
) -> None:
    done = fedka("users", "add", folder, "ada", "--role", "operator", given=PASSWORD)
    assert done.exit_code == 2 and "--password-stdin" in done.output


@pytest.mark.parametrize(
    ("typed", "code"), [((PASSWORD, PASSWORD), 0), ((PASSWORD, "another one it is"), 2)]
)
def test_the_terminal_asks_twice_and_shows_nothing(
    folder: Path, typed: tuple[str, ...], code: int
) -> None:
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "federation",
        "users",
        "add",
        str(folder),
        "ada",
        "--role",
        "operator",
    ]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        shown = b""
        for word, question in zip(typed, (b"Password", b"again"), strict=True):
            while question not in shown:
                shown += os.read(ours, 1000)
            os.write(ours, word.encode() + b"\n")
        try:
            while more := os.read(ours, 1000):
                shown += more
        except OSError:
            pass  # the other end is gone: that is how a terminal says so
        assert process.wait(60) == code
    os.close(ours)
    assert not any(word.encode() in shown for word in typed)


@pytest.mark.parametrize("words", [("--hospital", "nowhere"), ("--hospital", "")])
def test_an_unknown_hospital_is_refused(
    fedka: Callable[..., Any], folder: Path, words: tuple[str, ...]
) -> None:
    assert add(fedka, folder, "ada", *words).exit_code != 0


def test_verify_says_ok_or_names_what_was_changed(fedka: Callable[..., Any], folder: Path) -> None:
    add(fedka, folder)
    add(fedka, folder, "olu", "--hospital", "south", role="approver")
    done = fedka("audit", "verify", folder)
    assert done.exit_code == 0 and done.output.startswith("ok: 2 rows")
    with sqlite3.connect(folder / "console.sqlite") as connection:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        (table,) = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%audit%'"
        ).fetchone()
        connection.execute(f"UPDATE {table} SET actor = 'somebody' WHERE number = 1")
    connection.close()
    done = fedka("audit", "verify", folder)
    assert done.exit_code == 2 and "row 1 was changed" in " ".join(done.output.split())


def test_the_log_is_shown(fedka: Callable[..., Any], folder: Path) -> None:
    add(fedka, folder)
    assert "account.add" in fedka("audit", "show", folder).output
    assert json.loads(fedka("audit", "show", folder, "--json").output)[0]["subject"] == "user ada"


def test_passwords_do_not_cross_a_network_in_the_clear(
    fedka: Callable[..., Any], folder: Path
) -> None:
    done = fedka("console", "serve", folder, "--host", "0.0.0.0")
    assert done.exit_code == 2 and "in the clear" in " ".join(done.output.split())


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; "
        "from federation.cli import _mount, app; _mount();"
        "commands = [], ['console'], ['users'], ['audit'];"
        "print([CliRunner().invoke(app, [*words, '--help']).exit_code for words in commands]);"
        "print(' '.join(sys.modules))"
    )
    codes, modules = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        .stdout.strip()
        .split("\n")
    )
    assert codes == "[0, 0, 0, 0]"
    assert not set(modules.split()) & {
        "torch",
        "fastapi",
        "sqlalchemy",
        "argon2",
        "pydicom",
        "mlflow",
        "uvicorn",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal_number", "codes"),
    [(signal.SIGINT, {0, 130, -signal.SIGINT}), (signal.SIGTERM, {-signal.SIGTERM})],
    ids=["Ctrl-C", "SIGTERM"],
)
@pytest.mark.parametrize("words", [(), ("--with-intake",)], ids=["alone", "with intake"])
def test_a_served_console_answers_and_leaves_no_process_behind(
    folder: Path, words: tuple[Any, ...], signal_number: Signals, codes: set[int]
) -> None:
    command = [
        sys.executable,
        "-m",
        "federation",
        "console",
        "serve",
        str(folder),
        "--port",
        "0",
        *words,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        children: list[psutil.Process] = []
        assert process.stdout is not None
        try:
            address = process.stdout.readline().split()[1]
            with urllib.request.urlopen(f"{address}health", timeout=60) as answer:
                assert answer.read() == b"ok\n"
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) == len(words)
            process.send_signal(signal_number)
            assert process.wait(60) in codes
            assert not any(child.is_running() for child in children)
        finally:
            process.kill()
            for each in children:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
