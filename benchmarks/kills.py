"""Kills a simulation at random moments and gives the same command again, until it has ended.

Each run must then have the bits of the undisturbed one: every tensor of its models, every record
and its results. Every other kill hits the command's first process alone, as the system does when
memory is short; its worker processes must end by themselves.

``python -m benchmarks.kills --engine processes --kills 200``. Needs Linux.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from safetensors.torch import load_file

from benchmarks.measuring import ROOT, parser, print_progress
from federation.experiment.run_folder import RunFolder

OF_TIME = ("seconds", "made_by")  # differ between two runs of the same bits
_PATIENCE = 10.0  # seconds in which orphaned workers must end


@dataclass(frozen=True)
class Command:
    """A run in a folder, resumed where it was begun.

    Args:
        experiment: Preset or folder.
        engine: Name of the engine.
        changes: More settings, as after ``--set``.
    """

    experiment: str
    engine: str
    changes: Sequence[str] = ()

    def words(self, out: Path) -> list[str]:
        """Return the words of the command line."""
        settings = [f"engine.name={self.engine}", "tracking.enabled=false", *self.changes]
        words = [sys.executable, "-m", "federation", "run", self.experiment]
        words += ["--out", str(out), "--resume-if-begun"]
        return words + [word for each in settings for word in ("--set", each)]

    def start(self, out: Path) -> "subprocess.Popen[bytes]":
        """Start it in a process group of its own; what it prints goes beside its folder."""
        with out.with_suffix(".log").open("ab") as log:
            return subprocess.Popen(
                self.words(out), cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )


def outcome(out: Path) -> dict[str, Any]:
    """Return all that two runs of the same bits share: digests of tensors, records and results."""
    folder = RunFolder(out)
    found: dict[str, Any] = {
        f"record {number}": without_times(record)
        for number, record in enumerate(folder.read_records())
    }
    found["results"] = without_times(folder.read_json("results.json"))
    for place in sorted(out.glob("models/*/weights.safetensors")):
        for name, tensor in load_file(place).items():
            digest = hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
            found[f"{place.parent.name} {name}"] = digest
    return found


def without_times(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without what depends on the clock or on the number of starts."""
    return {name: value for name, value in record.items() if name not in OF_TIME}


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return the names of what differs, or is in one of the two alone."""
    return [name for name in {**expected, **found} if expected.get(name) != found.get(name)]


def kill(process: "subprocess.Popen[bytes]", whole_group: bool) -> None:
    """Kill a command with all its processes, or its first alone; wait until all have ended.

    Raises:
        TimeoutError: If a worker outlives its command.
    """
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    deadline = monotonic() + _PATIENCE
    while group_lives(process.pid):
        if monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise TimeoutError(f"workers of process {process.pid} outlive it")
        sleep(0.02)


def group_lives(group: int) -> bool:
    """Whether a process of this group has not ended; one that nobody has waited for has."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            return True
    return False


def trial(command: Command, kills: int, draw: random.Random, folder: Path) -> list[str]:
    """Run, kill and resume until there were so many kills; return what went wrong."""
    reference = folder / "undisturbed"
    started = monotonic()
    if command.start(reference).wait():
        return [f"the undisturbed run failed: {_last_line(reference)}"]
    lasts, expected, wrong, done = monotonic() - started, outcome(reference), [], 0
    print_progress(f"{command.engine}: undisturbed in {lasts:.1f} s, {len(expected)} compared")
    number = 0
    while done < kills:
        number += 1
        out = folder / f"killed-{number}"
        starts = 0
        while True:
            starts += 1
            process = command.start(out)
            try:
                code = process.wait(draw.uniform(0, lasts) if done < kills else None)
            except subprocess.TimeoutExpired:
                done += 1
                try:
                    kill(process, whole_group=done % 2 == 0)
                except TimeoutError as error:
                    wrong.append(f"run {number}, kill {done}: {error}")
                continue
            if code:
                wrong.append(f"run {number}, start {starts} ended with {code}: {_last_line(out)}")
            elif differ := differences(expected, outcome(out)):
                wrong.append(f"run {number} differs in {', '.join(differ[:5])}")
            break
        print_progress(f"{command.engine}: {done} kills, run {number} after {starts} starts")
        shutil.rmtree(out, ignore_errors=True)
    return wrong


def _last_line(out: Path) -> str:
    lines = out.with_suffix(".log").read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill runs under each engine; print what went wrong; return 1 if anything did."""
    options = parser(__doc__)
    options.add_argument("--experiment", default="hospital_configs/phantom_tiny")
    options.add_argument("--engine", action="append", help="may be repeated; default: both")
    options.add_argument("--kills", type=int, default=200, help="for each engine")
    options.add_argument("--set", action="append", default=[], help="a setting, path.to.key=value")
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args(arguments)
    found = {}
    for engine in chosen.engine or ("sequential", "processes"):
        command = Command(chosen.experiment, engine, chosen.set)
        with tempfile.TemporaryDirectory() as folder:
            found[engine] = trial(command, chosen.kills, random.Random(chosen.seed), Path(folder))
    print(json.dumps({"kills": chosen.kills, "seed": chosen.seed, "wrong": found}, indent=1))
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
