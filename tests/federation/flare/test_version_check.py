import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from federation.flare.certificates import Finding
from federation.flare.version_check import MADE_WITH, version_findings, versions, write_made_with

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HERE = {"records": 1, "fedka": "abc", "torch": "2.9.0", "nvflare": "2.9.1", "python": "3.11.2"}


def look(
    folder: Path, here: dict[str, str] | None = None, now: datetime = NOW
) -> dict[str, Finding]:
    return {
        each.what: each for each in version_findings("west", folder, now, {**HERE, **(here or {})})
    }


@pytest.fixture
def made(tmp_path: Path) -> Path:
    (tmp_path / MADE_WITH).write_text(
        json.dumps({"at": (NOW - timedelta(days=1)).isoformat(), **HERE})
    )
    return tmp_path


def test_the_same_versions_are_well(made: Path) -> None:
    assert {each.level for each in look(made).values()} == {"ok"}


@pytest.mark.parametrize(
    ("name", "level"), [("records", "error"), ("fedka", "warning"), ("torch", "warning")]
)
def test_another_version_than_the_kit_was_made_with_is_found(
    made: Path, name: str, level: Any
) -> None:
    found = look(made, {name: "another"})
    assert (found[name].level, found[name].got, found[name].allowed) == (
        level,
        "another",
        str(HERE[name]),
    )
    assert sum(each.level != "ok" for each in found.values()) == 1


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("2.9.0", "ok"),
        ("2.9.7", "ok"),
        ("2.8.9", "error"),
        ("2.10.0", "error"),
        ("3.0", "error"),
        ("not installed", "error"),
    ],
)
def test_flare_must_be_of_the_range_that_was_tried(made: Path, version: str, level: Any) -> None:
    assert look(made, {"nvflare": version})["nvflare"].level == level


def test_a_clock_before_the_kit_was_made_is_wrong(made: Path) -> None:
    assert look(made, now=NOW - timedelta(days=2))["clock"].level == "error"


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"at": "yesterday"}'])
def test_a_kit_that_does_not_say_is_a_warning(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / MADE_WITH).write_text(content)
    assert look(tmp_path)["versions"].level == "warning"


def test_what_is_written_is_what_is_installed(tmp_path: Path) -> None:
    write_made_with(tmp_path, NOW)
    assert json.loads((tmp_path / MADE_WITH).read_text()) == {
        "at": "2030-01-01T00:00:00+00:00",
        **versions(),
    }
