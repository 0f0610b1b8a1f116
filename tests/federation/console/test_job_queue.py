import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from federation.console.background_job import Job
from federation.console.job_queue import JobError, JobQueue

# A child does what its job file says; if the file names a pipe, it waits until one writes to it.
CHILD = """
import json, pathlib, sys
path = pathlib.Path(sys.argv[1])
job = json.loads(path.read_text())
with (path.parent / "progress.jsonl").open("a") as stream:
    stream.write(json.dumps({"step": "round", "done": 1, "of": 2}) + "\\n" + '{"half a li')
if job.get("wait"):
    open(job["wait"]).read()
if job.get("result") is not None:
    (path.parent / "result.json").write_text(json.dumps(job["result"]))
if job.get("says"):
    print(job["says"], file=sys.stderr)
sys.exit(job.get("code", 0))
"""
GOOD = {"result": {"ok": True, "value": 7}}


class Queue:
    """A queue with the behaviour of its jobs and a list of what was settled."""

    def __init__(self, folder: Path, does: ValueError | dict[str, Any] = GOOD) -> None:
        self.folder, self.does = folder, does
        self.settled: list[Any] = []
        self.child = folder.parent / "child.py"
        self.child.write_text(CHILD)
        self.jobs = JobQueue(
            folder,
            self.prepare,
            lambda job, result, jobs: self.settled.append((job.kind, job.state, result)),
            self.now,
            self.command,
        )

    def prepare(self, job: Job) -> dict[str, Any]:
        if isinstance(self.does, Exception):
            raise self.does
        return self.does

    def now(self) -> datetime:
        return datetime.now(UTC)

    def command(self, kind: Any) -> tuple[str, ...]:
        return (sys.executable, str(self.child))

    def run(self) -> None:
        """Run the queue until no job waits or runs, and wait for each process."""
        while self.jobs.run_once():
            for job in self.jobs.find():
                if job.state == "running":
                    wait_for(job.pid)


def wait_for(pid: int | None) -> None:
    assert pid is not None
    os.waitid(
        os.P_PID, pid, os.WEXITED | os.WNOWAIT
    )  # without taking the exit code from whoever asks for it later


@pytest.fixture
def queue(tmp_path: Path) -> Any:
    return Queue(tmp_path / "jobs")


def test_a_job_runs_and_is_settled_with_its_result(queue: Any) -> None:
    job = queue.jobs.add("training", "ben", "approver")
    queue.run()
    done = queue.jobs.get(job.job_id)
    assert (done.state, done.error, done.subject, done.settled) == ("done", "", job.job_id, True)
    assert queue.settled == [("training", "done", GOOD["result"])]
    assert queue.jobs.progress(job.job_id) == [
        {"step": "round", "done": 1, "of": 2}
    ]  # not the line that is being written


@pytest.mark.parametrize(
    ("does", "error"),
    [
        ({"result": {"ok": False, "error": "too few images"}, "code": 1}, "too few images"),
        (
            {"code": 3, "says": "ValueError: no such file"},
            "its process ended with exit code 3: ValueError: no such file",
        ),
        ({}, "its process ended with exit code 0 and left no result"),
        (ValueError("no model serves"), "it could not be started: no model serves"),
    ],
)
def test_a_job_that_fails_says_why(
    tmp_path: Path, does: ValueError | dict[str, Any], error: str
) -> None:
    queue = Queue(tmp_path / "jobs", does)
    job = queue.jobs.add("training", "ben", "approver")
    queue.run()
    assert (queue.jobs.get(job.job_id).state, queue.jobs.get(job.job_id).error) == ("failed", error)
    assert queue.settled[0][:2] == ("training", "failed")


def test_a_job_that_is_killed_says_so(tmp_path: Path) -> None:
    queue, gate = waiting_queue(tmp_path)
    job = queue.jobs.add("training", "ben", "approver")
    queue.jobs.run_once()
    pid = queue.jobs.get(job.job_id).pid
    os.kill(pid, 9)
    wait_for(pid)
    queue.jobs.run_once()
    assert (
        queue.jobs.get(job.job_id).error == "its process was ended by signal 9 and left no result"
    )
    assert gate.exists()


def test_trainings_run_one_after_another_and_a_roll_back_waits_for_none(tmp_path: Path) -> None:
    queue, gate = waiting_queue(tmp_path)
    first, second = (queue.jobs.add("training", "ben", "approver") for _ in range(2))
    queue.jobs.run_once()
    queue.does = GOOD
    back = queue.jobs.add("roll_back", "ben", "approver", first.job_id, version="3")
    queue.jobs.run_once()
    assert [queue.jobs.get(each.job_id).state for each in (first, second, back)] == [
        "running",
        "waiting",
        "running",
    ]
    open_gate(gate)
    queue.run()
    assert [queue.jobs.get(each.job_id).state for each in (first, second, back)] == [
        "done",
        "done",
        "done",
    ]


def test_a_running_job_is_found_again_by_the_next_web_process(tmp_path: Path) -> None:
    queue, gate = waiting_queue(tmp_path)
    job = queue.jobs.add("training", "ben", "approver")
    queue.jobs.run_once()
    pid = queue.jobs.get(job.job_id).pid
    later = Queue(tmp_path / "jobs")
    assert later.jobs.run_once()
    assert (later.jobs.get(job.job_id).state, later.jobs.get(job.job_id).pid) == ("running", pid)
    open_gate(gate)
    wait_for(pid)
    later.jobs.run_once()
    assert (later.jobs.get(job.job_id).state, later.jobs.get(job.job_id).attempts) == ("done", 1)
    assert later.settled == [("training", "done", GOOD["result"])]
    queue.jobs.run_once()  # the process was a child of this one too


def test_a_job_whose_process_died_unnoticed_is_started_again(queue: Any) -> None:
    job = queue.jobs.add("training", "ben", "approver")
    forget(queue, job, pid=2**22 + 1, attempts=1)
    queue.run()
    assert (queue.jobs.get(job.job_id).state, queue.jobs.get(job.job_id).attempts) == ("done", 2)


def test_a_reused_process_id_is_not_taken_for_the_job(queue: Any) -> None:
    job = queue.jobs.add("training", "ben", "approver")
    forget(queue, job, pid=os.getpid(), process_started=1.0, attempts=1)
    queue.run()
    assert queue.jobs.get(job.job_id).state == "done"


def test_a_job_whose_process_dies_again_and_again_is_given_up(queue: Any) -> None:
    job = queue.jobs.add("training", "ben", "approver")
    forget(queue, job, pid=2**22 + 1, attempts=3)
    queue.run()
    assert queue.jobs.get(job.job_id).error == "its process died 3 times"


def test_an_unsettled_job_is_settled_by_the_next_web_process(queue: Any) -> None:
    job = queue.jobs.add("training", "ben", "approver")
    queue.run()
    save(queue, replace(queue.jobs.get(job.job_id), settled=False))
    later = Queue(queue.folder)
    later.jobs.run_once()
    assert later.settled == [("training", "done", GOOD["result"])]


def test_a_job_that_cannot_be_settled_does_not_stop_the_others(
    queue: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def settle(job: Job, result: Mapping[str, Any], jobs: JobQueue) -> None:
        if job.kind == "training":
            raise ValueError("the catalogue is locked")
        queue.settled.append(job.kind)

    queue.jobs = JobQueue(queue.folder, queue.prepare, settle, queue.now, queue.command)
    job = queue.jobs.add("training", "ben", "approver")
    queue.run()
    queue.jobs.add("release", "ben", "approver", job.job_id)
    queue.run()
    assert queue.settled == ["release"] and not queue.jobs.get(job.job_id).settled
    assert len(caplog.records) == 1


def test_a_damaged_job_does_not_stop_the_others(queue: Any) -> None:
    damaged = queue.jobs.add("training", "ben", "approver")
    (queue.folder / damaged.job_id / "state.json").write_text("{ half")
    job = queue.jobs.add("training", "ben", "approver")
    queue.run()
    assert [each.job_id for each in queue.jobs.find()] == [job.job_id]


def test_only_one_of_two_web_processes_runs_the_queue(queue: Any, tmp_path: Path) -> None:
    import fcntl

    queue.jobs.add("training", "ben", "approver")
    with (queue.folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not queue.jobs.run_once()
    queue.run()
    assert queue.settled


def test_the_watcher_runs_a_job_by_itself(queue: Any) -> None:
    import threading

    ended = threading.Event()
    queue.jobs = JobQueue(
        queue.folder, queue.prepare, lambda job, result, jobs: ended.set(), queue.now, queue.command
    )
    queue.jobs.watch()
    queue.jobs.add("training", "ben", "approver")
    assert ended.wait(60)
    queue.jobs.close()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nothing",
        "../../etc",
        "training-20260301090000038-zzzz",
        "training-20260301090000038-aaaa/../x",
        "\0",
    ],
)
def test_an_invalid_job_id_is_refused(queue: Any, name: str) -> None:
    for ask in (queue.jobs.get, queue.jobs.progress, queue.jobs.result):
        with pytest.raises(JobError, match="there is no job"):
            ask(name)


def test_settled_jobs_can_be_removed(queue: Any) -> None:
    queue.jobs.add("versions", "system", "system")
    queue.run()
    queue.jobs.remove_settled("versions")
    assert queue.jobs.find() == []


def waiting_queue(tmp_path: Path) -> tuple[Any, ...]:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    return Queue(tmp_path / "jobs", {**GOOD, "wait": str(gate)}), gate


def open_gate(gate: Path) -> None:
    with gate.open("w"):
        pass


def forget(queue: Any, job: Job, **facts: Any) -> None:
    save(queue, replace(job, state="running", **facts))


def save(queue: Any, job: Job) -> None:
    (queue.folder / job.job_id / "state.json").write_text(json.dumps(asdict(job)))
