"""Figures: SVG bytes that can be parsed, with the right words in them, or nothing.

Where there is no data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from federation.report import figures, tables
from federation.report.figures.accuracy import drops
from federation.report.figures.rounds import joining_rounds, states
from federation.report.folder import RunFolder, read_run_folder

ALL = [getattr(figures, name) for name in figures.__all__]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def run(run_dir: Path) -> RunFolder:
    return read_run_folder(run_dir)


def words(svg: bytes | None) -> list[str]:
    assert svg is not None
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]


def labelled(svg: bytes | None) -> set[str]:
    return set(words(svg))


@pytest.mark.parametrize("draw", ALL)
@pytest.mark.parametrize("width", [346, 528, 1092])
def test_every_figure_is_an_svg_of_the_width_asked_for(
    run: RunFolder, draw: Callable[..., bytes], width: int
) -> None:
    root = ET.fromstring(draw(run, width))
    assert root.tag == f"{SVG}svg"
    assert float(root.get("width", "0")) == width
    assert root.get("aria-label")


@pytest.mark.parametrize("draw", ALL)
def test_a_run_with_nothing_recorded_has_no_figure(
    tmp_path: Path, draw: Callable[..., bytes | None]
) -> None:
    assert draw(read_run_folder(tmp_path), 528) is None


@pytest.mark.parametrize("draw", ALL)
def test_colours_follow_the_theme(run: RunFolder, draw: Callable[..., bytes]) -> None:
    svg = draw(run, 528)
    assert b"var(--ink, #" in svg
    assert b"#fe01" not in svg


def test_accuracy_names_tasks_and_numbers(run: RunFolder) -> None:
    assert {
        "task 0",
        "task 1",
        "task 2",
        "94.1",
        "78.6",
        "round",
        "macro-F1, end of task",
    } <= labelled(figures.accuracy_figure(run, 1092))


def test_the_accuracy_matrix_shows_each_entry(run: RunFolder) -> None:
    assert {"94.1", "80.3", "87.2", "74.4", "76.1", "85.3"} <= labelled(
        figures.matrix_figure(run, 528)
    )


def test_forgetting_is_best_earlier_less_last(run: RunFolder) -> None:
    assert drops(run) == [(0, 0.941, 0.744), (1, 0.872, 0.761)]
    assert {"\u221219.7 points", "\u221211.1 points"} <= labelled(
        figures.forgetting_figure(run, 528)
    )


def test_confusion_shows_rows_in_percent_and_counts_on_hover(run: RunFolder) -> None:
    svg = figures.confusion_figure(run, 528)
    assert {"bladder", "lung-left", "true", "predicted", "90"} <= labelled(svg)
    assert svg is not None
    assert "kidney-right taken for kidney-right: 181 of 200 images" in [
        title.text for title in ET.fromstring(svg).iter(f"{SVG}title")
    ]


def test_answers_that_are_no_seen_class_get_a_column_of_their_own(run_dir: Path) -> None:
    line = {
        "kind": "task",
        "task": 0,
        "round": 1,
        "seen_classes": ["liver", "heart"],
        "confusion": [[8, 1, 1], [0, 10, 0]],
    }
    (run_dir / "records.jsonl").write_text(json.dumps(line), encoding="utf-8")
    run = read_run_folder(run_dir)
    assert {"(other answer)", "80", "10"} <= labelled(figures.confusion_figure(run, 528))
    table = tables.confusion_table(run)
    assert table is not None
    assert table.rows[0] == ("liver", "8", "1", "1", "10")


def test_classes_show_name_and_accuracy(run: RunFolder) -> None:
    assert {"spleen", "75.4", "kidney-right", "when the class was new"} <= labelled(
        figures.classes_figure(run, 528)
    )


def test_entropy_tells_hits_misses_and_false_alarms_apart(run: RunFolder) -> None:
    svg = figures.entropy_figure(run, 1092)
    assert {"aachen", "hvar", "threshold", "hit", "miss", "false alarm"} <= labelled(svg)
    assert "Hits 17, misses 1, false alarms 1." in (
        ET.fromstring(svg or b"").get("aria-label") or ""
    )


def test_the_statistic_is_drawn_only_where_it_is_not_the_entropy(run_dir: Path) -> None:
    assert "statistic" not in labelled(figures.entropy_figure(read_run_folder(run_dir), 1092))
    path = run_dir / "records.jsonl"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"statistic": 0', '"statistic": 1'),
        encoding="utf-8",
    )
    assert "statistic" in labelled(figures.entropy_figure(read_run_folder(run_dir), 1092))


def test_participation_shows_joins_and_rejections(run: RunFolder) -> None:
    assert joining_rounds(run) == {"gent": 8, "hvar": 16}
    assert states(run, "hvar")[0][0] == 16
    assert (5, "update rejected") in states(run, "cork")
    assert {"gent", "joins", "update rejected", "signalled new classes"} <= labelled(
        figures.participation_figure(run, 1092)
    )


def test_losses_are_named_and_traffic_says_both_ways(run: RunFolder) -> None:
    assert {"total", "classification", "semantic", "attention"} <= labelled(
        figures.losses_figure(run, 528)
    )
    assert {"up, twins to server", "down, server to twins", "megabytes"} <= labelled(
        figures.traffic_figure(run, 528)
    )


def test_names_in_other_scripts_and_mathematical_signs_stay_as_they_are(run_dir: Path) -> None:
    path = run_dir / "records.jsonl"
    text = path.read_text(encoding="utf-8")
    for name, odd in {
        "liver": "\u809d\u81d3",
        "heart": "$h_1^{",
        "spleen": 'id="<b>\u0007',
    }.items():
        text = text.replace(json.dumps(name), json.dumps(odd))
    path.write_text(text, encoding="utf-8")
    assert {"\u809d\u81d3", "$h_1^{", 'id="<b>'} <= labelled(
        figures.classes_figure(read_run_folder(run_dir), 528)
    )


def test_a_hundred_classes_are_drawn_without_numbers(run_dir: Path) -> None:
    seen = [f"class {place}" for place in range(100)]
    confusion = [[40 * (row == column) for column in range(100)] for row in range(100)]
    line = {"kind": "task", "task": 0, "round": 1, "seen_classes": seen, "confusion": confusion}
    (run_dir / "records.jsonl").write_text(json.dumps(line), encoding="utf-8")
    assert "100" not in labelled(figures.confusion_figure(read_run_folder(run_dir), 1092))
