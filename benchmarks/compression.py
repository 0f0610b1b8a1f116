"""Accuracy and megabytes per round of each upload compression, with and without error feedback.

Compares FedAvg with replay and FedKA on part of OrganAMNIST over two tasks, with a small network
and few rounds. The comparison is between compressions, not between methods; a small network
tolerates more than a large one. FedKA sends no prototypes here, because they are not compressed.

``python -m benchmarks.compression``; ``--dataset phantom_axial`` needs no download; ``--out FILE``
also writes JSON.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.measuring import ROOT, print_progress, table, write_results

METHODS = {
    "FedAvg": "{name: fedavg, memory: true}",
    "FedKA": "{name: fedka, head_loss: ce, mean: by_images, reconstruction: null}",
}
COMPRESSIONS = {
    "none": "{kind: none}",
    "float16": "{kind: float16}",
    "int8": "{kind: int8}",
    "int8, no feedback": "{kind: int8, error_feedback: false}",
    "top 1 %": "{kind: top_k}",
    "top 1 %, no feedback": "{kind: top_k, error_feedback: false}",
}


def changes_of(arguments: argparse.Namespace) -> list[str]:
    """Return the settings that all runs share, on top of ``organa_demo``."""
    return [
        f"scenario.dataset={arguments.dataset}",
        "scenario.num_tasks=2",
        f"scenario.classes_per_task={arguments.classes}",
        f"scenario.rounds_per_task={arguments.rounds}",
        f"scenario.images_per_class={arguments.images_per_class}",
        "scenario.arrivals_per_task=1",
        "hospitals={initial: 4}",
        f"network={{backbone: lenet, width: {arguments.width}, image_size: 28, channels: 1}}",
        "training.epochs=2",
        "training.precision=float32",
        "engine={name: sequential}",
        "evaluation={round_images: 0, task_images: 1500}",
        "tracking.enabled=false",
    ]


def measure(method: str, compression: str, seed: int, changes: Sequence[str]) -> dict[str, Any]:
    """Run one experiment; return its accuracies and the megabytes sent in a round."""
    from federation.experiment.config import load_experiment
    from federation.experiment.loop import run_experiment, with_seed

    settings = [
        *changes,
        f"method={METHODS[method]}",
        f"outgoing.compression={COMPRESSIONS[compression]}",
    ]
    config = with_seed(load_experiment(ROOT / "hospital_configs" / "organa_demo", settings), seed)
    with tempfile.TemporaryDirectory() as folder:
        results = run_experiment(config, Path(folder) / "run")
    rounds = config.scenario.num_tasks * config.scenario.rounds_per_task
    return {
        "average_accuracy": results["average_accuracy"],
        "last_accuracy": results["last_accuracy"],
        "megabytes_up": results["megabytes_up"] / rounds,
        "megabytes_down": results["megabytes_down"] / rounds,
    }


def row(
    method: str, compression: str, runs: Sequence[dict[str, Any]], uncompressed: float
) -> tuple[str, ...]:
    """Return a row of the table: means over seeds, accuracies with standard deviation."""
    up, down = (mean(each[name] for each in runs) for name in ("megabytes_up", "megabytes_down"))
    accuracies = (
        _spread([100 * each[name] for each in runs])
        for name in ("average_accuracy", "last_accuracy")
    )
    return method, compression, *accuracies, f"{up:.4f}", f"{down:.4f}", f"{up / uncompressed:.3f}"


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def main(argv: list[str]) -> int:
    """Measure all combinations, print and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10, help="of each of the two tasks")
    parser.add_argument("--classes", type=int, default=3, help="of each task")
    parser.add_argument("--images-per-class", type=int, default=200)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--dataset", default="organamnist")
    parser.add_argument("--out", type=Path, help="also write JSON here")
    arguments = parser.parse_args(argv)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for method in METHODS:
        for compression in COMPRESSIONS:
            print_progress(f"  {method}, {compression}")
            runs = [
                measure(method, compression, seed, changes_of(arguments))
                for seed in range(1, arguments.seeds + 1)
            ]
            found.setdefault(method, {})[compression] = runs
    head = (
        "method",
        "compression",
        "average accuracy, %",
        "last accuracy, %",
        "MB up a round",
        "MB down a round",
        "of none's",
    )
    rows = []
    for method, by_compression in found.items():
        uncompressed = mean(each["megabytes_up"] for each in by_compression["none"])
        rows += [
            row(method, compression, runs, uncompressed)
            for compression, runs in by_compression.items()
        ]
    print(table(head, rows))
    if arguments.out:
        write_results(arguments.out, arguments, runs=found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
