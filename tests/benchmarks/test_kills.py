"""The trial that kills runs at random moments: what it compares, and how it kills."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.kills import Command, differences, group_lives, kill, outcome

CHILD = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {!r}]); {}"
SLEEP = "import time; time.sleep(60)"


def write_run(out: Path, weight: float = 1.0, seconds: float = 1.0, **record: Any) -> Path:
    place = out / "models" / "task-1" / "weights.safetensors"
    place.parent.mkdir(parents=True)
    save_file({"head": np.array([weight, 2.0])}, str(place))
    line = {"kind": "round", "round": 0, "seconds": seconds, **record}
    (out / "records.jsonl").write_text(json.dumps(line) + "\n")
    (out / "results.json").write_text(json.dumps({"last_accuracy": 0.5, "made_by": [seconds]}))
    return out


def test_two_runs_that_differ_in_time_alone_are_equal(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "1"), write_run(tmp_path / "2", seconds=9.0)
    assert differences(outcome(one), outcome(other)) == []


@pytest.mark.parametrize(
    ("more", "where"), [({"weight": 1.0 + 2**-52}, "task-1 head"), ({"loss": 0.5}, "record 0")]
)
def test_one_bit_or_one_number_is_a_difference(
    more: dict[str, Any], where: str, tmp_path: Path
) -> None:
    one, other = write_run(tmp_path / "1"), write_run(tmp_path / "2", **more)
    assert differences(outcome(one), outcome(other)) == [where]


def test_what_is_missing_is_a_difference() -> None:
    assert differences({"a": 1}, {"b": 1}) == ["a", "b"]


def start(script: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", script], start_new_session=True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_group_is_gone_and_a_worker_that_outlives_its_command_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = start(SLEEP)
    kill(alone, whole_group=True)
    assert not group_lives(alone.pid)
    monkeypatch.setattr("benchmarks.kills._PATIENCE", 0.2)
    ready = "print(flush=True); time.sleep(60)"
    parent = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(SLEEP, ready)],
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None and parent.stdout.readline()  # its child has started
    with pytest.raises(TimeoutError, match="outlive"):
        kill(parent, whole_group=False)
    parent.stdout.close()


def test_the_command_resumes_what_was_begun() -> None:
    words = Command("phantom_tiny", "processes", ["training.epochs=1"]).words(Path("out"))
    assert "--resume-if-begun" in words and "engine.name=processes" in words
    assert words[-2:] == ["--set", "training.epochs=1"]
