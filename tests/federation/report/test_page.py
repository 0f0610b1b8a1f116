"""The page as a whole: what stands on it, what is missing, what it must never do."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from federation.report import ReportError, number_format, summary, tables, write_report
from federation.report.folder import read_run_folder

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)> $x^{2 --> &"
VOID = {"meta", "img", "br", "link", "input"}


class Outline(HTMLParser):
    """Text, attributes and unbalanced tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.is_balanced = True

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.is_balanced &= bool(self.open) and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    return parser


def spoken(page: str) -> str:
    return re.sub(r"[\s\u00a0\u202f]+", " ", " ".join(outline(page).words))


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(
        json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8"
    )


def test_the_page_lies_in_the_run_folder_and_nothing_else_is_left(run_dir: Path) -> None:
    before = {path.name for path in run_dir.iterdir()}
    assert write_report(run_dir) == run_dir / "report.html"
    assert {path.name for path in run_dir.iterdir()} == before | {"report.html"}


def test_the_same_run_gives_the_same_page(run_dir: Path, page: str) -> None:
    assert write_report(run_dir).read_text(encoding="utf-8") == page


def test_the_page_holds_all_headline_numbers(page: str) -> None:
    text = spoken(page)
    for number in (
        "85.5 %",
        "78.6 %",
        "76.9 %",
        "15.4 points",
        "93.8 %",
        "15 of 16 arrivals",
        "1 h 2 min",
        "24 rounds",
    ):
        assert number in text
    assert "in 21 pairs" in text


def test_the_page_says_what_was_run(page: str) -> None:
    text = spoken(page)
    facts = (
        "fedka",
        "organamnist",
        "8, 2 of which joined later",
        "3 with 9 classes",
        "2024",
        "0.3.0+g1a2b3c4",
        "AMD EPYC",
    )
    for fact in (
        *facts,
        "sha256:c0ffee",
        "kidney-left, kidney-right, lung-left",
        "hvar",
        "Equation 16",
    ):
        assert fact in text


def test_the_page_lists_rejected_updates_and_events(page: str) -> None:
    text = spoken(page)
    for said in (
        "norm 412.7 is above the limit of 100",
        "interrupted by the user",
        "resumed",
        "models/task-2",
    ):
        assert said in text


def test_detection_numbers_of_the_results_come_before_counted_ones(run_dir: Path) -> None:
    said = {
        "boundaries": 4,
        "noticed_at_once": 3,
        "noticed_late": 1,
        "false_alarms": 7,
        "hit_rate": 0.75,
    }
    edit(run_dir / "results.json", lambda results: {**results, "detection": said})
    found = {headline.name: headline for headline in summary.headlines(read_run_folder(run_dir))}
    assert number_format.percent(0.75) == found["Detection hit rate"].value
    assert found["Detection hit rate"].note == "3 of 4 arrivals, 1 more late"
    assert found["False alarms"].value == "7"


def test_the_page_says_which_images_were_measured(run_dir: Path) -> None:
    edit(run_dir / "config.json", lambda config: {**config, "evaluation": {"split": "validation"}})
    assert ("Measured on", "validation images") in summary.what_was_run(read_run_folder(run_dir))


def test_nothing_is_loaded_from_outside_the_page(page: str) -> None:
    for tag, attributes in outline(page).tags:
        assert tag not in {"script", "link", "iframe", "object", "base"}
        for name in ("src", "href", "xlink:href", "srcset", "poster", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png"))
    assert not re.search(r"url\((?!#)|@import", page)
    assert "default-src 'none'" in page


def test_tags_are_balanced_and_identifiers_are_unique(page: str) -> None:
    found = outline(page)
    identifiers = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert found.is_balanced
    assert not found.open
    assert len(identifiers) == len(set(identifiers))


def test_references_inside_figures_point_to_something(page: str) -> None:
    identifiers = set(re.findall(r'\bid="([^"]+)"', page))
    assert (
        set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
        <= identifiers
    )


def test_every_picture_has_a_text_instead(page: str) -> None:
    tags = outline(page).tags
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    figures = [attributes for tag, attributes in tags if tag == "svg"]
    assert len(figures) == 2 * 9
    assert all(
        attributes.get("role") == "img" and attributes.get("aria-label") for attributes in figures
    )


def test_names_from_the_run_stay_text(run_dir: Path) -> None:
    evil = json.dumps(EVIL)[1:-1]
    for path in (run_dir / "manifest.json", run_dir / "records.jsonl", run_dir / "config.json"):
        text = path.read_text(encoding="utf-8")
        for name in (
            "liver",
            "cork",
            "fedka",
            "norm 412.7 is above the limit of 100",
            "resumed",
            "classification",
        ):
            text = text.replace(f'"{name}"', f'"{evil}{name}"')
        path.write_text(text, encoding="utf-8")
    page = write_report(run_dir).read_text(encoding="utf-8")
    found = outline(page)
    assert not {"script"} & {tag for tag, _ in found.tags}
    assert not [
        name for _, attributes in found.tags for name in attributes if name.startswith("on")
    ]
    assert found.is_balanced
    assert all(
        source.startswith("data:")
        for tag, a in found.tags
        if tag == "img" and (source := a["src"] or "")
    )
    assert "&lt;script&gt;alert(" in page
    assert EVIL in html.unescape(" ".join(found.words))


def test_an_interrupted_run_says_so_and_shows_what_it_reached(run_dir: Path) -> None:
    (run_dir / "results.json").unlink()
    shutil.rmtree(run_dir / "examples")
    lines = (run_dir / "records.jsonl").read_text(encoding="utf-8").split("\n")[:11]
    event = json.dumps({"kind": "event", "round": 9, "what": "interrupted by the user"})
    (run_dir / "records.jsonl").write_text(
        "\n".join([*lines, event, '{"kind": "rou']), encoding="utf-8"
    )
    text = spoken(write_report(run_dir).read_text(encoding="utf-8"))
    for said in (
        "This run has no results",
        "so far, 1 finished task",
        "94.1 %",
        "needs a second task",
        "1 line of records.jsonl could not be read",
        "This run saved no attention examples",
        "At least two tasks must finish",
        "not begun",
    ):
        assert said in text


def test_a_run_without_a_finished_task_has_no_accuracy(run_dir: Path) -> None:
    (run_dir / "results.json").unlink()
    lines = (run_dir / "records.jsonl").read_text(encoding="utf-8").split("\n")[:3]
    (run_dir / "records.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert "No task has finished" in spoken(write_report(run_dir).read_text(encoding="utf-8"))


def test_an_empty_folder_gives_a_page_that_names_what_is_missing(tmp_path: Path) -> None:
    text = spoken(write_report(tmp_path).read_text(encoding="utf-8"))
    for said in (
        "config.json is not in the run folder",
        "No round has been recorded",
        "No loss was recorded",
        "not finished",
    ):
        assert said in text


@pytest.mark.parametrize(
    "name", ["config.json", "manifest.json", "environment.json", "results.json", "records.jsonl"]
)
@pytest.mark.parametrize(
    "content",
    [None, "", "[1, 2]", '{"tasks": 3, "hospitals": [], "method": 5, "kind": "round"}', "\x00{"],
)
def test_any_missing_or_broken_file_still_gives_a_page(
    run_dir: Path, name: str, content: str | None
) -> None:
    # Reading is what can fail; drawing eighteen figures for each of these would only take time.
    if content is None:
        (run_dir / name).unlink()
    else:
        (run_dir / name).write_text(content, encoding="utf-8")
    run = read_run_folder(run_dir)
    assert summary.headlines(run)
    assert summary.what_was_run(run)
    assert summary.notices(run) or content is not None
    for make in (
        tables.task_table,
        tables.hospital_table,
        tables.round_table,
        tables.entropy_table,
        tables.model_table,
    ):
        make(run)


def test_broken_attention_examples_are_named(run_dir: Path) -> None:
    (run_dir / "examples" / "attention.npz").write_bytes(b"PK\x03\x04 not really")
    assert "examples/attention.npz could not be read" in spoken(
        write_report(run_dir).read_text(encoding="utf-8")
    )


def test_a_missing_folder_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"run folder: got .*allowed is .*give the folder"):
        write_report(tmp_path / "nothing")
