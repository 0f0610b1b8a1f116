"""Checks of all documents: who each is for, short lines, links and paths that lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TOP_FOLDERS = "federation|twin|physical|incremental|tests|docs|benchmarks|hospital_configs"
LONGEST_LINE = 100


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.name)
def document(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_a_document_says_in_its_first_sentence_who_it_is_for(document: Path) -> None:
    paragraph = document.read_text(encoding="utf-8").split("\n\n")[1]
    assert paragraph.startswith("For ")


def test_no_line_of_a_document_is_longer_than_a_hundred_characters(document: Path) -> None:
    # The tables between these marks are written by a program.
    text = re.sub(
        r"<!-- budget: begin.*?budget: end -->",
        "",
        document.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    assert [line for line in text.splitlines() if len(line) > LONGEST_LINE] == []


def test_every_link_of_a_document_leads_to_a_file_and_a_heading(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)|^\[\d+\]: (\S+)$", prose(text), re.MULTILINE)
    for target in (first or second for first, second in targets):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.is_file(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), target


def test_every_source_file_named_in_a_document_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(rf"(?<![\w/-])(?:{TOP_FOLDERS})/[\w./]*\w\.(?:py|md|yaml|png)\b", text))
    made = {"federation/methods/lwf.py", "tests/federation/methods/test_lwf.py"}
    made |= {"hospital_configs/suites/lwf.yaml"}  # the reader of CONTRIBUTING.md writes these
    assert [name for name in sorted(named - made) if not (ROOT / name).is_file()] == []
