"""docs/architecture.md names files that exist and all folders, and answers four questions."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FILES = sorted(set(re.findall(r"(?:physical|incremental|twin|federation|tests)/[\w/]+\.py", PAGE)))


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_the_page_names_exists(name: str) -> None:
    assert (ROOT / name).is_file()


def test_the_page_names_many_files() -> None:
    assert len(FILES) > 30


def test_every_folder_of_federation_has_its_row_and_its_place_in_the_drawing() -> None:
    folders = {each.parent.name for each in (ROOT / "federation").glob("*/__init__.py")}
    rows = set(re.findall(r"^\| `federation/(\w+)` \|", PAGE, re.MULTILINE))
    drawing = PAGE.split("```mermaid")[1].split("```")[0]
    assert rows == folders
    assert all(re.search(rf"\b{folder}\b", drawing) for folder in folders)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Where does a twin decide that a class is new?", "twin/novelty_check.py"),
        ("What crosses the wall?", "twin/messages.py"),
        ("Where would FedBuff go?", "federation/topologies/"),
        ("How is a run resumed?", "federation/experiment/loop.py"),
    ],
)
def test_four_questions_of_a_stranger_are_answered_with_file_names(
    question: str, answer: str
) -> None:
    paragraph = PAGE.split(f"**{question}**")[1].split("\n\n")[0]
    assert answer in paragraph
