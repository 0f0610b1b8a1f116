"""Operator's connection to FLARE, in a process of its own.

FLARE's admin connection keeps threads that outlive it, and may never come back when the server dies
under it. In a process of its own it can be given up: what is not answered in time ends the process,
and the next question begins another one. Knows no run and no round.
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from federation.flare.local_processes import kit_environment

_ANSWER_SECONDS = 30.0  # a connection takes about two


class OperatorError(RuntimeError):
    """The server does not answer the operator now."""


class OperatorSession:
    """Asks FLARE's server in the operator's name.

    Args:
        kit: The operator's.
        admin: The name in its certificate.
        log: Takes what FLARE says on the way.
    """

    def __init__(self, kit: Path, admin: str, log: Path) -> None:
        self._command = [sys.executable, "-m", __name__, str(kit.resolve()), admin]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def seen(self) -> tuple[dict[str, float], tuple[str, ...]]:
        """Return when each connected site gave its last sign of life [s since the epoch].

        The ids of the jobs that run.
        """
        seen = self._ask("seen")
        return dict(seen["sites"]), tuple(seen["jobs"])

    def submit(self, job: Path) -> str:
        """Begin a job and return its id."""
        return str(self._ask("submit", str(job.resolve())))

    def state_of(self, job_id: str) -> str:
        """Return what FLARE says of a job."""
        return str(self._ask("state", job_id))

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, *question: str) -> Any:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=kit_environment(),
                )
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], _ANSWER_SECONDS)
            line = self._process.stdout.readline() if ready else b""
        except OSError:
            line = b""
        if not line:
            self.close()
            raise OperatorError("FLARE's server does not answer the operator; is it running?")
        answer = json.loads(line)
        if "error" in answer:
            self.close()
            raise OperatorError(f"FLARE's server refused the operator: {answer['error']}")
        return answer["answer"]


def main(kit: str, admin: str) -> None:
    """Answer questions, one a line, until they end."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever FLARE prints belongs to the log
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    session = new_secure_session(admin, kit, timeout=10.0)
    verbs: dict[str, Callable[..., Any]] = {
        "seen": lambda: _seen(session.get_system_info()),
        "submit": session.submit_job,
        "state": lambda job_id: str(session.get_job_meta(job_id).get("status", "")),
    }
    for line in sys.stdin:
        verb, *rest = json.loads(line)
        try:
            said = {"answer": verbs[verb](*rest)}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(said).encode() + b"\n")
        answers.flush()
    os._exit(0)  # FLARE's threads do not end


def _seen(system: Any) -> dict[str, Any]:
    sites = {each.name: each.last_connect_time or 0.0 for each in system.client_info}
    return {"sites": sites, "jobs": [each.job_id for each in system.job_info]}


if __name__ == "__main__":
    main(*sys.argv[1:])
