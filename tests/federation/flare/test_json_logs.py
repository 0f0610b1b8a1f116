import ast
import json
import logging
import logging.config
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.flare.json_logs import JsonLines, OnceAMinute, log_config

ROOT = Path(__file__).parents[3]


def record(
    message: str = "something", level: int = logging.WARNING, **more: Any
) -> logging.LogRecord:
    return logging.LogRecord(
        more.pop("name", "nvflare.part"),
        level,
        "file.py",
        more.pop("line", 7),
        message,
        (),
        more.pop("error", None),
    )


def test_a_record_is_one_line_of_json() -> None:
    line = JsonLines().format(record('a "quoted"\nmessage', name="federation.flare.x"))
    assert "\n" not in line
    plain = json.loads(line)
    assert (plain["level"], plain["logger"], plain["message"]) == (
        "WARNING",
        "federation.flare.x",
        'a "quoted"\nmessage',
    )
    assert plain["at"].endswith("+00:00")


def test_an_error_is_logged_without_its_own_words() -> None:
    try:
        raise FileNotFoundError(2, "No such file", "/images/meier_hans.dcm")
    except FileNotFoundError:
        line = JsonLines().format(record("could not", error=sys.exc_info()))
    assert "meier" not in line
    assert json.loads(line)["error"].startswith("FileNotFoundError (No such file or directory)")


def test_nothing_large_is_logged() -> None:
    assert len(JsonLines().format(record("x" * 10_000_000))) < 1000


def test_the_same_complaint_passes_once_a_minute_and_says_how_often_it_came() -> None:
    now = [0.0]
    once = OnceAMinute(lambda: now[0])
    passed = []
    for second in range(0, 125, 5):
        now[0] = float(second)
        each = record("Connector failed with exception ConnectionRefusedError")
        if once.filter(each):
            passed.append((second, each.repeated))  # type: ignore[attr-defined]  # looked up where it is used
    assert passed == [(0, 0), (60, 11), (120, 11)]
    assert once.filter(record("another complaint")) and once.filter(record(line=8))


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[tuple[Any, ...]]:
    config = log_config()
    config["handlers"]["file"]["filename"] = str(tmp_path / "log.jsonl")
    root, ours, flare = (logging.getLogger(name) for name in ("", "federation", "nvflare"))
    before = (
        list(root.handlers),
        root.level,
        [(each, each.level) for each in map(logging.getLogger, config["loggers"])],
    )
    logging.config.dictConfig(config)
    yield ours, flare, tmp_path / "log.jsonl"
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = before[0], before[1]
    for each, level in before[2]:
        each.setLevel(level)


def test_ours_is_logged_from_info_and_flares_from_warning(configured: tuple[Any, ...]) -> None:
    ours, flare, path = configured
    ours.info("answered train, last round 3")
    ours.debug("too much")
    flare.info("chatter")
    flare.warning("something is wrong")
    messages = [json.loads(line)["message"] for line in path.read_text().splitlines()]
    assert messages == ["answered train, last round 3", "something is wrong"]


def test_the_settings_are_plain_json() -> None:
    assert json.loads(json.dumps(log_config())) == log_config()


def test_two_rooms_alone_log_in_a_hospitals_process() -> None:
    """Whoever logs in a hospital's process is read by a person first.

    A line could hold what must not leave a process.
    """
    ours = (
        "sorted(name for name in sys.modules if name.partition('.')[0] in ('physical', "
        "'incremental', 'twin', 'federation'))"
    )
    asked = (
        f"import sys, federation.flare.hospital_site, federation.flare.json_logs; print(*{ours})"
    )
    said = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    paths = [path for name in said if (path := ROOT / f"{name.replace('.', '/')}.py").exists()]
    speaking = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = (
                [each.name for each in node.names]
                if isinstance(node, ast.Import)
                else [getattr(node, "module", "")]
            )
            logs = isinstance(node, ast.Import | ast.ImportFrom) and "logging" in imported
            prints = (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "print"
            )
            if logs or prints:
                speaking.add(path.relative_to(ROOT).as_posix())
    assert len(paths) > 30 and speaking == {
        "federation/flare/json_logs.py",
        "federation/flare/site_status.py",
    }
