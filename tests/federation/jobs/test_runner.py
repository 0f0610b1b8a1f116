import json
import threading
from pathlib import Path
from typing import Any

import pydantic.dataclasses
import pytest
from pydantic import ConfigDict

from federation.jobs.runner import JobFolder, run_job


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Sum:
    """A job that a test can see through."""

    numbers: list[int]


def add(job: Sum, folder: JobFolder) -> dict[str, Any]:
    folder.add_progress("add", 1, 1, "Adding", {"loss": float("nan")})
    return {"sum": sum(job.numbers)}


def write(folder: Path, content: str) -> Path:
    (folder / "job.json").write_text(content)
    return folder / "job.json"


def result(folder: Path) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return plain


def test_result_and_progress_are_written_beside_the_job(tmp_path: Path) -> None:
    assert run_job(write(tmp_path, '{"numbers": [1, 2]}'), Sum, add) == 0
    assert (result(tmp_path)["ok"], result(tmp_path)["sum"]) == (True, 3)
    (line,) = (tmp_path / "progress.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] is None
    assert not list(tmp_path.glob(".result*"))


def test_finished_job_runs_again_only_if_its_file_changed(tmp_path: Path) -> None:
    run_job(write(tmp_path, '{"numbers": [1]}'), Sum, add)

    def forbidden(job: Sum, folder: JobFolder) -> dict[str, Any]:
        raise AssertionError

    assert run_job(tmp_path / "job.json", Sum, forbidden) == 0
    assert run_job(write(tmp_path, '{"numbers": [4]}'), Sum, add) == 0
    assert result(tmp_path)["sum"] == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "job.json: "),
        ("[]", "job.json: "),
        ('{"number": [1]}', "number"),
        ('{"numbers": ["x"]}', "numbers.0"),
        ("\x00", "job.json"),
    ],
)
def test_invalid_job_file_is_an_error(
    tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_job(write(tmp_path, content), Sum, add) == 1
    assert result(tmp_path)["ok"] is False
    assert message in result(tmp_path)["error"]
    assert result(tmp_path)["error"] in capsys.readouterr().err


def test_missing_job_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    assert run_job(tmp_path / "job.json", Sum, add) == 1
    assert "cannot be read" in result(tmp_path)["error"]
    assert run_job(tmp_path / "nowhere" / "job.json", Sum, add) == 1


def test_error_becomes_one_sentence_and_the_job_can_be_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(job: Sum, folder: JobFolder) -> dict[str, Any]:
        raise RuntimeError("the disk is on fire")

    assert run_job(write(tmp_path, '{"numbers": []}'), Sum, fail) == 1
    assert result(tmp_path)["error"].startswith("unexpected RuntimeError: the disk is on fire")
    assert "Traceback" in capsys.readouterr().err
    assert run_job(tmp_path / "job.json", Sum, add) == 0


def test_second_process_waits_for_the_first_and_takes_its_result(tmp_path: Path) -> None:
    path = write(tmp_path, '{"numbers": [5]}')
    began, go_on, times = threading.Event(), threading.Event(), []

    def slow(job: Sum, folder: JobFolder) -> dict[str, Any]:
        times.append(1)
        began.set()
        assert go_on.wait(30)
        return add(job, folder)

    threads = [threading.Thread(target=run_job, args=(path, Sum, slow)) for _ in range(2)]
    threads[0].start()
    assert began.wait(30)
    threads[1].start()
    go_on.set()
    for each in threads:
        each.join()
    assert times == [1]
    assert result(tmp_path)["sum"] == 5
