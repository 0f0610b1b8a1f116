"""Supervisor: begins FLARE sessions until the run is finished.

A session is a job over the hospitals that are alive. When it ends unfinished, because the server or
a hospital died or too few answered, the next one begins as soon as enough hospitals are alive
again; the journal makes it go on where the last round was finished. When a hospital that a session
lacks is alive again, the session is asked to pause at its next round, and the next one has it.
Knows no learning.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from federation.flare.event_feed import Activity, read_status
from federation.flare.flare_job import write_job
from federation.flare.operator_session import OperatorError, OperatorSession
from federation.flare.provisioning import Deployment

_ALIVE_SECONDS = 12.0  # FLARE's clients send a sign of life every five seconds
_POLL_SECONDS = 0.5
_NOT_DEPLOYED = "FINISHED:FAILED_TO_RUN"  # FLARE's word for a job that did not begin everywhere
_BEGIN_SECONDS = 90.0  # within which FLARE begins a job or never will
# Sessions in a row in which no round was finished: more than a quarter of an hour with the rests
# between them.
_MOST_FRUITLESS = 20
_LONGEST_REST_SECONDS = 60.0
_LONGEST_PATIENCE_SECONDS = (
    600.0  # with a hospital that is alive and again and again does not come into a session
)


class SupervisorError(RuntimeError):
    """A run that does not go on: what, what to do."""


@dataclass
class _Job:
    """A session under way."""

    job_id: str
    hospitals: tuple[str, ...]
    lacked_since: float | None = None


class Supervisor:
    """Runs sessions of one deployment.

    Args:
        deployment: Its folders; the server's and the operator's must be on this machine.
        idle: Called again and again while waiting: lets the caller watch processes and show
            progress.
    """

    def __init__(self, deployment: Deployment, idle: Callable[[], object] = lambda: None) -> None:
        self._deployment, self.idle = deployment, idle
        self.place = deployment.place
        self._operator = OperatorSession(
            deployment.operator, deployment.admin, self.place.folder / "flare" / "operator.log"
        )
        self.sessions = 0
        self._patience = _ALIVE_SECONDS

    def run(self) -> dict[str, Any]:
        """Begin sessions until the run is finished, and return the last status.

        Raises:
            SupervisorError: If a session failed in a way that another one would repeat.
        """
        try:
            return self._sessions()
        finally:
            self._operator.close()

    def _sessions(self) -> dict[str, Any]:
        fruitless, done = 0, self._rounds_done()
        while True:
            self.place.pause.unlink(missing_ok=True)
            self._forget_last_word()
            job = self._begin(self._wait_for_hospitals())
            last_state = self._wait_for_end(job)
            status = read_status(self.place.folder)
            if status.get("state") == "finished":
                return status
            if status.get("state") == "failed":
                raise SupervisorError(
                    f"the run failed: {status.get('reason')}; mend it and run fedka deploy run "
                    "again: it goes on by itself"
                )
            fruitless = (
                fruitless + 1
                if self._rounds_done() == done and status.get("state") != "paused"
                else 0
            )
            done = self._rounds_done()
            if fruitless >= _MOST_FRUITLESS:
                raise SupervisorError(
                    f"{fruitless} sessions in a row finished no round; the last one says: "
                    f"{status.get('state')}, {status.get('reason')}; "
                    "look into the logs of server and hospitals, then run fedka deploy run again: "
                    "it goes on by itself"
                )
            if last_state == _NOT_DEPLOYED:
                self._tell_waiting(
                    "a session could not be begun at every hospital; the server's log says where "
                    "and why"
                )
            self._rest(fruitless)

    def _rest(self, fruitless: int) -> None:
        """Wait the longer the more sessions finished no round.

        A full disk, say, ends each within a second until somebody makes room.
        """
        until = time.monotonic() + (
            min(_LONGEST_REST_SECONDS, 2.0**fruitless) if fruitless else 0.0
        )
        while time.monotonic() < until:
            self._wait()

    def _rounds_done(self) -> int:
        return int(read_status(self.place.folder).get("rounds_done", 0))

    def _forget_last_word(self) -> None:
        """So that what a killed session said last is not taken for the next one's."""
        self._tell_waiting("for hospitals")

    def _tell_waiting(self, reason: str) -> None:
        Activity(self.place.folder).tell({"event": "state", "state": "waiting", "reason": reason})

    def _wait_for_hospitals(self) -> tuple[str, ...]:
        """Return who is alive, as soon as all are, or enough are and the others had their time."""
        config = self.place.config
        enough_since: float | None = None
        while True:
            alive = self._alive()
            if len(alive) == len(config.hospitals):
                return alive
            if len(alive) < config.link.minimum_hospitals:
                enough_since = None
            elif enough_since is None:
                enough_since = time.monotonic()
            elif time.monotonic() - enough_since >= config.expected_seconds:
                return alive
            self._wait()

    def _alive(self) -> tuple[str, ...]:
        """Return the hospitals that gave a sign of life just now, in the order of the federation.

        None while the server is away.
        """
        try:
            seen, _ = self._operator.seen()
        except OperatorError:  # the server is down or coming up
            return ()
        now = time.time()
        return tuple(
            name
            for name in self.place.config.hospitals
            if now - seen.get(name, 0.0) < _ALIVE_SECONDS
        )

    def _begin(self, hospitals: Sequence[str]) -> _Job:
        folder = write_job(
            self.place.folder / "flare" / "job", hospitals, self.place.config.link.minimum_hospitals
        )
        while True:
            try:
                job = _Job(self._operator.submit(folder), tuple(hospitals))
            except OperatorError:
                self._wait()
            else:
                self.sessions += 1
                return job

    def _wait_for_end(self, job: _Job) -> str:
        """Return what FLARE says of a session when it has ended.

        A killed server does not know any more what it had under way.
        """
        ran, begun = False, time.monotonic()
        while True:
            self._wait()
            try:
                state, (_, jobs) = self._operator.state_of(job.job_id), self._operator.seen()
            except OperatorError:  # the server is away
                continue
            runs = job.job_id in jobs
            if state.startswith("FINISHED") or not state:
                return state
            if not runs and (ran or time.monotonic() - begun > _BEGIN_SECONDS):
                return state
            ran |= runs
            self._ask_to_pause_for_those_who_are_back(job)

    def _ask_to_pause_for_those_who_are_back(self, job: _Job) -> None:
        """Let the session end at its next round once missing hospitals have been alive a while."""
        status = read_status(self.place.folder)
        if status.get("state") != "running":
            return
        suspects = {
            name
            for name, each in status.get("hospitals", {}).items()
            if each.get("state") == "suspect"
        }
        alive = self._alive()
        back = [name for name in alive if name not in job.hospitals or name in suspects]
        if not back:
            job.lacked_since, self._patience = None, _ALIVE_SECONDS
        elif job.lacked_since is None:
            job.lacked_since = time.monotonic()
        elif time.monotonic() - job.lacked_since > self._patience and not self.place.pause.exists():
            self.place.pause.touch()
            self._patience = min(2 * self._patience, _LONGEST_PATIENCE_SECONDS)

    def _wait(self) -> None:
        self.idle()
        time.sleep(_POLL_SECONDS)
