"""A deployment under faults.

Begins one after the other, and waits until the federation has recovered.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos_faults import FAULTS, Grip
from benchmarks.chaos_plan import BY_NAME, Fault
from benchmarks.chaos_report import Episode, Happened
from benchmarks.measuring import ROOT, tell
from federation.flare.event_feed import read_feed, read_status
from federation.flare.provisioning import Deployment

PATIENCE_SECONDS = 300.0  # for a recovery
FEED_LINES = 1_000_000


def whole_round(feed: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a round was begun and finished in a piece of the feed.

    One that a fault found under way proves nothing.
    """
    begun = False
    for event in feed:
        begun |= event["event"] == "round"
        if begun and event["event"] == "aggregated":
            return True
    return False


@dataclass
class Chaos:
    """A deployment under faults.

    Args:
        made: The deployment.
        seconds: For which faults are begun.
        process: ``fedka deploy up``.
        port: The server's.
        episodes: What was done; filled in.
    """

    made: Deployment
    seconds: float
    process: "subprocess.Popen[bytes]"
    port: int
    started: float = field(default_factory=time.time)
    episodes: list[Episode] = field(default_factory=list)

    def run(self, faults: Iterator[Fault]) -> None:
        """Do one fault after the other until the time or the run is over."""
        fault = next(faults)
        while self._time_is_left():
            done, happened = 0, list[Happened]()
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
            recovered = self.wait_for(
                lambda mended=mended: whole_round(self.feed()[mended:]) or self._finished()
            )  # type: ignore[misc]  # the base is untyped
            self.episodes.append(
                Episode(
                    tuple(happened), time.time() if recovered else None, done, self.rounds_done()
                )
            )
            tell(
                f"{self._clock()}  {self.episodes[-1].name}: "
                f"{'recovered' if recovered else 'NOT recovered'}, {self.rounds_done()} rounds"
            )
            if not recovered:
                return

    def do(self, fault: Fault) -> Happened:
        """Do one fault, for as long as it lasts, and mend it."""
        began = time.time()
        with FAULTS[fault.kind](Grip(self.made, self.process.pid, self.port), fault.victims) as hit:
            tell(
                f"{self._clock()}  {fault.kind} {', '.join(fault.victims)}: "
                f"{hit or 'nothing to hit'}"
            )
            self.pass_time(fault.seconds)
        return Happened(fault, hit, began, time.time())

    def rounds_done(self) -> int:
        """Return how many rounds are finished."""
        return int(read_status(self.made.place.folder).get("rounds_done", 0))

    def is_over(self) -> bool:
        """Return whether the deployment has ended."""
        return self.process.poll() is not None

    def wait_for(self, is_so: Callable[[], bool]) -> bool:
        """Wait until something is so and return whether it is.

        Not when the deployment ends before or patience does.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            if self.is_over() or time.monotonic() > end:
                return is_so()
            time.sleep(0.1)
        return True

    def pass_time(self, seconds: float) -> None:
        """Let time pass, no longer than the deployment runs."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.is_over():
            time.sleep(0.05)

    def _time_is_left(self) -> bool:
        return time.time() - self.started < self.seconds and not self.is_over()

    def feed(self) -> list[dict[str, Any]]:
        """Return all that has happened, as the server says it."""
        return read_feed(self.made.place.folder, FEED_LINES)

    def _in_session(self) -> bool:
        status = read_status(self.made.place.folder)
        return status.get("state") == "running" and status.get("rounds_done", 0) > 0

    def _finished(self) -> bool:
        return read_status(self.made.place.folder).get("state") == "finished"

    def _clock(self) -> str:
        return f"{time.time() - self.started:6.0f} s"


@contextmanager
def up(made: Deployment, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a deployment on this machine; whatever happens it is ended."""
    command = [sys.executable, "-m", "federation", "deploy", "up", str(made.folder), "--local"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT
        )
    try:
        yield process
    finally:
        process.kill()  # its namespace ends with it, and all that is in there
        process.wait()
