"""One piece of long work as a value: what it is, who asked for it, where it stands. Starts nothing."""

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
"""What each kind runs. Jobs of one module run one after another; a roll-back never waits for a training."""


class JobError(ValueError):
    """A job that is not there, or cannot be done: what, got, allowed, what to do."""


@dataclass(frozen=True)
class Job:
    """One piece of long work.

    Args:
        job_id: Its id, also its folder's name.
        kind: What it is.
        subject: The training that it is about; its own id for a training.
        user: Who asked for it.
        role: As what.
        created: When it was asked for, UTC, ISO 8601.
        state: Where it stands.
        reason: Why, as its author said.
        version: Of the model that a roll-back withdraws.
        started: When its process started, the last time.
        ended: When it ended.
        error: Why it failed, for people.
        attempts: How often it was started.
        pid: Of its process.
        process_started: Start time of that process: a process id alone is given to somebody else one day.
        settled: What follows from its end has been done.
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
