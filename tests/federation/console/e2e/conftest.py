"""Fixtures for browser tests: a Chromium, and the demo running in a process of its own."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
LONGEST_SECONDS = 1500.0  # on a busy machine; on an idle one all tests take two minutes
SMALL = ("--patients", "10", "--rounds", "12", "--network", "lenet", "--seconds", "1")


@dataclass(frozen=True)
class Demo:
    """A running demo.

    Args:
        address: Address of its pages.
        folder: Folder of its console.
        passwords: User -> password.
        process: Its process.
    """

    address: str
    folder: Path
    passwords: dict[str, str]
    process: "subprocess.Popen[str]"

    def log(self) -> str:
        """Return what it has written to its standard error."""
        return (self.folder.parent / "errors.txt").read_text()


@pytest.fixture(scope="module")
def chromium() -> str:
    found = subprocess.run(
        [ROOT / ".ci" / "browser", sys.executable], capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip(
            f"no browser, and none can be installed here: {found.stderr.strip().splitlines()[-1]}"
        )
    return found.stdout.strip()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "federation", "console", "demo", "--port", "0", *SMALL]
    command += ["--folder", str(folder / "console"), "--password-file", str(folder / "passwords")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with (folder / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=environment
        )
    too_long = threading.Timer(LONGEST_SECONDS, process.kill)
    too_long.start()
    try:
        assert process.stdout is not None
        address = next(
            (line.split()[1] for line in process.stdout if line.startswith("console: ")), None
        )
        assert address, f"the demo ended before it served: {(folder / 'errors.txt').read_text()}"
        lines = (folder / "passwords").read_text().splitlines()
        assert (folder / "passwords").stat().st_mode & 0o077 == 0
        yield Demo(
            address.rstrip("/"),
            folder / "console",
            dict(line.split("\t") for line in lines),
            process,
        )
    finally:
        too_long.cancel()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
