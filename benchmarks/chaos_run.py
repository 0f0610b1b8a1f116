"""Runs a deployment under faults: injects one after the other and waits for each recovery."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.chaos_faults import FAULTS, DeploymentAccess
from benchmarks.chaos_plan import BY_NAME, Fault
from benchmarks.chaos_report import Episode, InjectedFault
from benchmarks.measuring import ROOT, print_progress
from federation.flare.event_feed import read_feed, read_status
from federation.flare.provisioning import Deployment

PATIENCE_SECONDS = 300.0  # longest wait for a recovery
FEED_LINES = 1_000_000


def whole_round(feed: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a part of the feed has a round that began and finished within it."""
    begun = False
    for event in feed:
        begun |= event["event"] == "round"
        if begun and event["event"] == "aggregated":
            return True
    return False


@dataclass
class FaultRun:
    """A deployment under faults.

    Args:
        made: The deployment.
        seconds: Time during which faults are started [s].
        process: Process of ``fedka deploy up``.
        port: Port of the server.
        episodes: Injected faults; filled by ``run``.
    """

    made: Deployment
    seconds: float
    process: "subprocess.Popen[bytes]"
    port: int
    started: float = field(default_factory=time.time)
    episodes: list[Episode] = field(default_factory=list)

    def run(self, faults: Iterator[Fault]) -> None:
        """Inject faults until the time is used up or the deployment has ended."""
        fault = next(faults)
        while self._time_is_left():
            done, happened = 0, list[InjectedFault]()
            while True:
                self.pass_time(fault.after)
                if BY_NAME[fault.kind].needs_session and not self.wait_for(self._in_session):
                    break
                if self.is_over():
                    break
                done = done if happened else self.rounds_done()
                happened.append(self.do(fault))
                fault = next(faults)
                if not (fault.at_once and self._time_is_left()):
                    break
            if not happened:
                return
            mended = len(self.feed())
            recovered = self.wait_for(partial(self._recovered_since, mended))
            self.episodes.append(
                Episode(
                    tuple(happened), time.time() if recovered else None, done, self.rounds_done()
                )
            )
            print_progress(
                f"{self._clock()}  {self.episodes[-1].name}: "
                f"{'recovered' if recovered else 'NOT recovered'}, {self.rounds_done()} rounds"
            )
            if not recovered:
                return

    def do(self, fault: Fault) -> InjectedFault:
        """Inject one fault for its duration and undo it."""
        began = time.time()
        with FAULTS[fault.kind](
            DeploymentAccess(self.made, self.process.pid, self.port), fault.victims
        ) as hit:
            print_progress(
                f"{self._clock()}  {fault.kind} {', '.join(fault.victims)}: "
                f"{hit or 'nothing to hit'}"
            )
            self.pass_time(fault.seconds)
        return InjectedFault(fault, hit, began, time.time())

    def rounds_done(self) -> int:
        """Return the number of finished rounds."""
        return int(read_status(self.made.place.folder).get("rounds_done", 0))

    def is_over(self) -> bool:
        """Return whether the deployment has ended."""
        return self.process.poll() is not None

    def wait_for(self, is_so: Callable[[], bool]) -> bool:
        """Wait for a condition and return whether it holds when the wait ends.

        The wait also ends with the deployment or after ``PATIENCE_SECONDS``.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            if self.is_over() or time.monotonic() > end:
                return is_so()
            time.sleep(0.1)
        return True

    def pass_time(self, seconds: float) -> None:
        """Sleep for this time, at most until the deployment ends."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.is_over():
            time.sleep(0.05)

    def _time_is_left(self) -> bool:
        return time.time() - self.started < self.seconds and not self.is_over()

    def feed(self) -> list[dict[str, Any]]:
        """Return all events that the server has recorded."""
        return read_feed(self.made.place.folder, FEED_LINES)

    def _in_session(self) -> bool:
        status = read_status(self.made.place.folder)
        return status.get("state") == "running" and status.get("rounds_done", 0) > 0

    def _recovered_since(self, event: int) -> bool:
        """Return whether a whole round follows this number of events, or the run is finished."""
        finished = read_status(self.made.place.folder).get("state") == "finished"
        return whole_round(self.feed()[event:]) or finished

    def _clock(self) -> str:
        return f"{time.time() - self.started:6.0f} s"


@contextmanager
def run_deployment(made: Deployment, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a deployment on this machine and end it in any case."""
    command = [sys.executable, "-m", "federation", "deploy", "up", str(made.folder), "--local"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT
        )
    try:
        yield process
    finally:
        process.kill()  # its namespace ends with it, and all processes in there
        process.wait()
