"""The record of one background job: its kind, who asked for it, and its state."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["training", "register", "release", "roll_back", "versions"]
State = Literal["waiting", "running", "done", "failed"]
ADDITION, RELEASE = "federation.class_addition", "federation.release"
MODULES: Mapping[Kind, str] = {
    "training": ADDITION,
    "register": RELEASE,
    "release": RELEASE,
    "roll_back": RELEASE,
    "versions": RELEASE,
}
"""The Python module that runs each kind of job.

Jobs of one module run one after another, so a roll-back never waits for a training.
"""


class JobError(ValueError):
    """A job does not exist or cannot be run."""


@dataclass(frozen=True)
class Job:
    """One background job.

    Args:
        job_id: Its id, which is also the name of its folder.
        kind: What it does.
        subject: Id of the training that it belongs to; for a training its own id.
        user: Name of the user who asked for it.
        role: Role of that user.
        created: When it was asked for, UTC, ISO 8601.
        state: Whether it waits, runs, is done or has failed.
        reason: The reason that the user gave.
        version: Version of the model that a roll-back withdraws.
        started: When its process was last started.
        ended: When it ended.
        error: Why it failed, as a sentence for users.
        attempts: How often its process was started.
        pid: Id of its process.
        process_started: Start time of that process, because systems reuse process ids.
        settled: Whether the consequences of its end have been carried out.
    """

    job_id: str
    kind: Kind
    subject: str
    user: str
    role: str
    created: str
    state: State = "waiting"
    reason: str = ""
    version: str | None = None
    started: str | None = None
    ended: str | None = None
    error: str = ""
    attempts: int = 0
    pid: int | None = None
    process_started: float | None = None
    settled: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("waiting", "running")
