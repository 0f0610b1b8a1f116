"""Network cost of a round: processes over mutual TLS against the same rounds in one process.

Uses four hospitals of ``phantom_tiny``. Prints milliseconds per round of both sides, their
difference, the bytes sent, and the time until a session starts. Exits with 1 if the weights differ
in one bit.

``python -m benchmarks.flare``; ``--out FILE`` also writes JSON.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.measuring import ROOT, print_progress, table
from federation.experiment.checkpoint import load_checkpoint
from federation.experiment.config import ExperimentConfig, load_experiment
from federation.experiment.loop import RunCallbacks, run_experiment
from federation.experiment.run_folder import RunFolder
from federation.flare.engine import LinkConfig
from federation.flare.event_feed import read_feed
from federation.flare.provisioning import init_deployment
from federation.flare.server import ServerConfig

PATIENCE_SECONDS = 600.0


def in_one_process(config: ExperimentConfig, folder: Path) -> list[float]:
    """Run the experiment in this process; return the seconds of each round."""
    return [each["seconds"] for each in _run(config, folder)]


def _run(config: ExperimentConfig, folder: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []

    def record(entry: Any) -> None:
        if entry["kind"] == "round":
            records.append(dict(entry))

    run_experiment(config, folder, callbacks=RunCallbacks(record=record))
    return records


def over_the_network(config: ExperimentConfig, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Run a deployment of five processes; return its run folder and the measurements."""
    server = ServerConfig(
        (), LinkConfig(deadline_seconds=120, minimum_hospitals=len(config.hospitals))
    )
    made = init_deployment(config, folder / "deployment", server, host="localhost", port=8102)
    command = [sys.executable, "-m", "federation", "deploy", "up", str(made.folder), "--local"]
    started = perf_counter()
    with (folder / "up.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            code = process.wait(PATIENCE_SECONDS)
        finally:
            process.send_signal(signal.SIGKILL)
    if code:
        sys.exit(f"the deployment ended with {code}: {(folder / 'up.log').read_text()[-2000:]}")
    events = read_feed(made.place.folder, 100_000)
    sent = [each["bytes_up"] + each["bytes_down"] for each in events if each["event"] == "round"][
        1:
    ]
    hello, running = (
        next(each["at"] for each in events if each["event"] == "state" and each["state"] == name)
        for name in ("waiting", "running")
    )
    begin = (datetime.fromisoformat(running) - datetime.fromisoformat(hello)).total_seconds()
    seconds = [each["seconds"] for each in events if each["event"] == "aggregated"]
    return made.place.run, {
        "rounds": seconds,
        "bytes": sent,
        "begin": begin,
        "all": perf_counter() - started,
    }


def main(argv: list[str]) -> int:
    """Measure both sides, print and write the results; return 1 if the weights differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--method", default="fedavg")
    parser.add_argument("--out", type=Path, help="also write JSON here")
    arguments = parser.parse_args(argv)
    changes = (
        f"scenario.rounds_per_task={arguments.rounds // 2}",
        f"network.width={arguments.width}",
        f"method={arguments.method}",
        "federation.twins_per_round=4",
        "evaluation.round_images=0",
        "tracking.enabled=false",
    )
    config = load_experiment(ROOT / "hospital_configs" / "phantom_tiny", changes)
    torch.set_num_threads(config.engine.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print_progress("  one process")
        here = in_one_process(config, folder / "here")
        print_progress("  five processes over mutual TLS")
        run, there = over_the_network(config, folder)
        ends = [
            load_checkpoint(RunFolder(each).checkpoints).server.weights
            for each in (folder / "here", run)
        ]
    same = all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    late = slice(len(here) // 2 + 1, None)  # the second task without its first round
    one, other = statistics.median(here[late]), statistics.median(there["rounds"][late])
    rows = [
        ["one process, twins one after the other", f"{1000 * one:.0f}", "", "", ""],
        [
            "server + 4 hospitals over mutual TLS",
            f"{1000 * other:.0f}",
            f"{1000 * (other - one):+.0f}",
            f"{statistics.median(there['bytes'][late]) / 1e6:.2f}",
            f"{there['begin']:.0f}",
        ],
    ]
    print(
        table(
            [
                "engine",
                "ms per round",
                "difference [ms]",
                "MB per round",
                "a session begins after [s]",
            ],
            rows,
        )
    )
    print(f"\nweights after {len(here)} rounds: {'the same bits' if same else 'DIFFERENT'}")
    found = {"here": here, "there": there, "same": same}
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
