"""Compares engines on one experiment: sequential, debug, and 1 and 2 worker processes.

Uses OrganAMNIST and a thin network, each engine in a fresh process. Prints seconds per round as a
ratio to the sequential engine. Exits with 1 if the weights after the last round differ in one bit.

``python -m benchmarks.engines``; ``--out FILE`` also writes JSON.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.measuring import ROOT, in_fresh_process, print_progress, table, write_results

ENGINES = {
    "sequential": {"name": "sequential"},
    "debug": {"name": "debug"},
    "processes, 1 worker": {"name": "processes", "workers": 1},
    "processes, 2 workers": {"name": "processes", "workers": 2},
}


def measure(engine: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one experiment here; return its time per round and the digest of its last weights."""
    from federation.experiment.checkpoint import load_checkpoint
    from federation.experiment.config import load_experiment
    from federation.experiment.loop import RunCallbacks, run_experiment
    from federation.experiment.run_folder import RunFolder

    changes = [
        f"scenario.dataset={arguments.dataset}",
        "scenario.num_tasks=2",
        f"scenario.rounds_per_task={arguments.rounds // 2}",
        f"scenario.images_per_class={arguments.images_per_class}",
        "scenario.arrivals_per_task=1",
        f"network.width={arguments.width}",
        f"training.epochs={arguments.epochs}",
        f"engine={json.dumps(ENGINES[engine])}",
        "evaluation.round_images=0",
        "tracking.enabled=false",
    ]
    config = load_experiment(ROOT / "hospital_configs" / "organa_demo", changes)
    ends = []

    def record(entry: Any) -> None:
        if entry["kind"] == "round":
            ends.append(perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        run_experiment(config, Path(folder) / "run", callbacks=RunCallbacks(record=record))
        weights = load_checkpoint(RunFolder(Path(folder) / "run").checkpoints).server.weights
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(name.encode() + value.numpy().tobytes())
    rounds = [after - before for before, after in pairwise(ends)]
    return {
        "engine": engine,
        "seconds_per_round": statistics.median(rounds),
        "weights": digest.hexdigest()[:16],
    }


def main(argv: list[str]) -> int:
    """Measure all engines, print and write the results; return 1 if the weights differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images-per-class", type=int, default=400)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--dataset", default="organamnist")
    parser.add_argument("--out", type=Path, help="also write JSON here")
    parser.add_argument("--measure", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure, arguments)))
        return 0
    found = []
    for engine in ENGINES:
        print_progress(f"  {engine}")
        found.append(in_fresh_process("benchmarks.engines", [*argv, "--measure", engine]))
        found[-1]["time_ratio"] = found[-1]["seconds_per_round"] / found[0]["seconds_per_round"]
    rows = [
        (
            each["engine"],
            f"{each['seconds_per_round']:.3f}",
            f"{each['time_ratio']:.2f}",
            each["weights"],
        )
        for each in found
    ]
    print(table(("engine", "s per round", "ratio", "digest of the last weights"), rows))
    equal = len({each["weights"] for each in found}) == 1
    print(f"\nWeights after the last round: {'equal to the bit' if equal else '**different**'}.")
    if not equal:
        print_progress("the engines' weights differ: a result must not depend on where twins run")
    if arguments.out:
        write_results(arguments.out, arguments, engines=found, equal=equal)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
