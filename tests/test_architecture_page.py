"""Checks of docs/architecture.md: its files exist, its diagram is complete, its questions stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
QUESTIONS = (
    "Where does a twin decide that a class is new?",
    "What crosses the wall?",
    "Where would FedBuff go?",
    "How is a run resumed?",
)
TOP_FOLDERS = "federation|twin|physical|incremental|tests|docs|benchmarks"


def named_files() -> set[str]:
    return set(re.findall(rf"\b(?:{TOP_FOLDERS})/[\w./]*\w\.\w+", PAGE))


def named_folders() -> set[str]:
    return set(re.findall(rf"\b((?:{TOP_FOLDERS})/(?:\w+/)*)(?![\w.])", PAGE))


def folders_of_federation() -> set[str]:
    return {path.parent.name for path in (ROOT / "federation").glob("*/__init__.py")}


def test_every_file_named_on_the_page_exists() -> None:
    assert len(named_files()) > 40
    assert [name for name in sorted(named_files()) if not (ROOT / name).is_file()] == []


def test_every_folder_named_on_the_page_exists() -> None:
    assert [name for name in sorted(named_folders()) if not (ROOT / name).is_dir()] == []


def test_the_folders_of_the_diagram_are_the_folders_of_federation() -> None:
    diagram = re.findall(r"^```mermaid\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0]
    assert set(re.findall(r'"federation/(\w+)/"', diagram)) == folders_of_federation()


def test_the_table_below_the_diagram_describes_the_same_folders() -> None:
    rows = re.findall(r"^\| `federation/(\w+)/` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(folders_of_federation())


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_question_is_answered_with_names_of_files(question: str) -> None:
    _, heading, rest = PAGE.partition(f"\n### {question}\n")
    assert heading, f"the page does not ask: {question}"
    answer = re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0]
    assert re.search(r"`[\w/]+\.py`", answer)


def test_no_line_is_longer_than_a_hundred_characters() -> None:
    assert [line for line in PAGE.splitlines() if len(line) > 100] == []
