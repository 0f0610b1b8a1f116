import json
import multiprocessing
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from federation.class_addition.job import AdditionJob, run_addition
from federation.jobs.runner import JobFolder
from physical.mirror import Mirror
from tests.federation.class_addition.example_federation import (
    CONFIG,
    ExampleFederation,
    images,
    progress,
    run,
)


class FolderKilledInRoundTwo(JobFolder):
    """Its process is killed as soon as the second round is told."""

    def add_progress(
        self, step: str, done: int, of: int, text: str, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().add_progress(step, done, of, text, facts)
        if (step, done) == ("round", 2):
            os.kill(os.getpid(), signal.SIGKILL)


def run_until_killed(path: Path) -> None:
    from pydantic import TypeAdapter

    folder = FolderKilledInRoundTwo(path)
    with folder.lock():
        run_addition(
            TypeAdapter(AdditionJob).validate_json((path / "job.json").read_bytes()), folder
        )


def test_restarted_job_makes_the_same_candidate_although_images_arrived(
    tmp_path: Path, first: Path, second: Path
) -> None:
    federation = ExampleFederation(tmp_path).fill()
    path = federation.job("second", first / "candidate", federation.approved())
    process = multiprocessing.get_context("spawn").Process(target=run_until_killed, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(progress(path)) == 4
    Mirror.open_existing(tmp_path / "north").add(images("north", "liver", 30, first=500))
    assert run(path)["digest"] == run(second)["digest"]
    assert [line["done"] for line in progress(path) if line["step"] == "round"] == [1, 2, 3]


def test_job_that_ended_well_is_not_run_again(second: Path) -> None:
    before = (second / "result.json").stat().st_mtime_ns, (second / "progress.jsonl").read_bytes()
    run(second)
    assert (
        (second / "result.json").stat().st_mtime_ns,
        (second / "progress.jsonl").read_bytes(),
    ) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rouns": 3}, "rouns: "),
        ({"config": {**CONFIG, "training": {"epoch": 3}}}, "epoch"),
        ({"config": {**CONFIG, "held_out_fraction": 0.0}}, "without it nothing can be measured"),
        ({"champion": "models/version-1"}, "allowed: absolute paths"),
        ({"champion": "/nowhere"}, "/nowhere/manifest.json cannot be read"),
        ({"hospitals": []}, "hospitals: "),
        (
            {"hospitals": [{"hospital_id": "../north", "mirror": "/m", "new_images": {}}]},
            "hospitals.0.hospital_id",
        ),
        (
            {"hospitals": [{"hospital_id": "north", "mirror": "/m", "new_images": {"<b>": []}}]},
            "class name '<b>' is not allowed",
        ),
        ({"hospitals": [{"hospital_id": "north", "mirror": "/m"}] * 2}, "allowed: each once"),
        (
            {"hospitals": [{"hospital_id": "north", "mirror": "/m"}]},
            "new_images is missing although there is a champion",
        ),
        ({"rules": {"min_accuracy": 2}}, "min_accuracy is 2"),
    ],
)
def test_result_of_an_impossible_job_holds_the_reason(
    federation: ExampleFederation, first: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    job = json.loads((first / "job.json").read_text())
    job |= {
        "champion": str(first / "candidate"),
        "hospitals": [{**each, "new_images": {}} for each in job["hospitals"]],
    }
    (tmp_path / "job.json").write_text(json.dumps({**job, **change}))
    result = run(tmp_path)
    assert result["ok"] is False
    assert message in result["error"]
    assert "\n" not in result["error"]
