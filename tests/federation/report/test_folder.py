"""Reading run folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from federation.report import number_format
from federation.report.folder import read_run_folder
from federation.report.records import Observation


def test_a_whole_run_is_read_without_a_problem(run_dir: Path) -> None:
    run = read_run_folder(run_dir)
    assert run.problems == ()
    assert len(run.rounds) == 24
    assert [record.task for record in run.tasks] == [0, 1, 2]
    assert run.task_spans == [(0, 0, 7), (1, 8, 15), (2, 16, 23)]
    assert run.examples is not None
    assert run.examples.images.shape == (4, 28, 28, 1)


def test_a_round_written_twice_counts_as_written_last(run_dir: Path) -> None:
    with (run_dir / "records.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(
            json.dumps({"kind": "round", "round": 3, "task": 0, "images_trained": 99}) + "\n"
        )
    run = read_run_folder(run_dir)
    assert len(run.rounds) == 24
    assert run.rounds[3].images_trained == 99


def test_numbers_that_are_none_are_left_out(run_dir: Path) -> None:
    losses = '{"total": Infinity, "semantic": 1}'
    line = f'{{"kind": "round", "round": 0, "task": 0, "accuracy": NaN, "losses": {losses}}}'
    (run_dir / "records.jsonl").write_text(line, encoding="utf-8")
    record = read_run_folder(run_dir).rounds[0]
    assert record.accuracy is None
    assert record.losses == {"semantic": 1.0}


@pytest.mark.parametrize(
    ("signal", "is_boundary", "outcome"),
    [
        (True, True, "hit"),
        (False, True, "miss"),
        (True, False, "false alarm"),
        (False, False, "quiet"),
    ],
)
def test_an_outcome_is_signal_against_truth(signal: bool, is_boundary: bool, outcome: str) -> None:
    assert Observation("cork", signal, 0.5, 0.5, 0.5, is_boundary).outcome == outcome


def test_a_confusion_matrix_of_the_wrong_size_is_not_used(run_dir: Path) -> None:
    line = {
        "kind": "task",
        "task": 0,
        "round": 1,
        "seen_classes": ["liver"],
        "confusion": [[1, 2], [3, 4]],
    }
    (run_dir / "records.jsonl").write_text(json.dumps(line), encoding="utf-8")
    assert read_run_folder(run_dir).tasks[0].confusion is None


def test_examples_whose_shapes_do_not_fit_are_named(run_dir: Path) -> None:
    np.savez(
        run_dir / "examples" / "attention.npz",
        images=np.zeros((2, 8, 8, 1), np.uint8),
        teacher=np.zeros((3, 4, 4)),
        student=np.zeros((2, 4, 4)),
        class_names=np.array(["liver", "heart"]),
    )
    run = read_run_folder(run_dir)
    assert run.examples is None
    assert any("shapes" in problem for problem in run.problems)


def test_words_round_numbers_and_name_units() -> None:
    assert number_format.percent(0.12345) == "12.3\u00a0%"
    assert number_format.points(-0.02) == "\u22122.0\u00a0points"
    assert number_format.duration(59.94) == "59.9\u00a0s"
    assert number_format.duration(3599.6) == "1\u00a0h 0\u00a0min"
    assert number_format.count(12345) == "12\u202f345"
    assert number_format.percent(None) == number_format.NONE
    assert number_format.total([None, None]) is None
