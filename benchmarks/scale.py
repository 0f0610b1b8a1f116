"""Memory and time of a round with 10, 100, 1,000 and 10,000 twins, of which 10 train.

Uses OrganAMNIST, a thin network and equal data for each twin (shared images), each number of twins
in a fresh process. Nothing is reconstructed on the server, because its memory would hide that of
the twins. Prints a table, and whether 10,000 twins need at most 1.5 times the memory and 1.2 times
the time per round of 10.

``python -m benchmarks.scale``; ``--out FILE`` also writes JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.measuring import in_fresh_process, print_progress, table, write_results

MOST_MEMORY, MOST_TIME = 1.5, 1.2


def measure(twins: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one experiment here; return its peak of resident memory and the time of each round."""
    from federation.experiment.config import ExperimentConfig
    from federation.experiment.loop import RunCallbacks, run_experiment
    from federation.methods.fedka import FedKA
    from physical.protocol import generate_hospitals

    began = perf_counter()
    changes: dict[str, Any] = {
        "scenario": {
            "dataset": arguments.dataset,
            "num_tasks": 1,
            "classes_per_task": 5,
            "rounds_per_task": arguments.rounds,
            "images_per_class": arguments.images_per_class,
        },
        "network": {
            "backbone": "resnet10",
            "width": arguments.width,
            "image_size": 28,
            "channels": 1,
        },
        "training": {
            "epochs": arguments.epochs,
            "batch_size": 32,
            "learning_rate": 0.05,
            "momentum": 0.9,
        },
        "twin": {"detection": {"rule": "entropy_jump", "jump_fraction": 0.3, "sample": 64}},
        "federation": {
            "twins_per_round": arguments.training,
            "observers_per_round": arguments.training,
        },
        "engine": {"name": arguments.engine},
        "evaluation": {"round_images": 200, "task_images": 200},
        "tracking": {"enabled": False},
    }
    config = ExperimentConfig(
        name=f"scale-{twins}",
        hospitals=generate_hospitals(twins, 0, 1),
        method=FedKA(head_loss="ce", reconstruction=None),
        **changes,
    )
    ends, trained = [], []

    def record(entry: Any) -> None:
        if entry["kind"] == "round":
            ends.append(perf_counter())  # from one record to the next: checkpoint included
            trained.append(len(entry["accepted"]))

    with tempfile.TemporaryDirectory() as folder:
        results = run_experiment(
            config, Path(folder) / "run", callbacks=RunCallbacks(record=record)
        )
    rounds = [after - before for before, after in pairwise(ends)]
    return {
        "twins": twins,
        "peak_megabytes": peak_megabytes(),
        "seconds_per_round": statistics.median(rounds),
        "seconds_of_rounds": [round(each, 3) for each in rounds],
        "seconds_until_first_round_ends": ends[0] - began,
        "trained_per_round": trained,
        "accuracy": results["last_accuracy"],
    }


def peak_megabytes() -> float:
    """Return the peak of resident memory of this process or of its largest child, in MB."""
    import resource

    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    try:  # ru_maxrss of this process also counts its time before exec
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        own = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6
    except (OSError, StopIteration):
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return max(own, children)


def main(argv: list[str]) -> int:
    """Measure all numbers of twins, print and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--twins", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument(
        "--training", type=int, default=10, help="twins that look and train in a round"
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images-per-class", type=int, default=64)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--dataset", default="organamnist")
    parser.add_argument("--engine", default="sequential", choices=("sequential", "processes"))
    parser.add_argument("--out", type=Path, help="also write JSON here")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure, arguments)))
        return 0
    found = []
    for twins in arguments.twins:
        print_progress(f"  {twins:,} twins")
        found.append(in_fresh_process("benchmarks.scale", [*argv, "--measure", str(twins)]))
        last, first = found[-1], found[0]
        last["memory_ratio"] = last["peak_megabytes"] / first["peak_megabytes"]
        last["time_ratio"] = last["seconds_per_round"] / first["seconds_per_round"]
    columns = (
        "twins",
        "peak memory, MB",
        "ratio",
        "s per round",
        "ratio",
        "s until the first round ends",
    )
    rows = [
        (
            f"{each['twins']:,}",
            f"{each['peak_megabytes']:.0f}",
            f"{each['memory_ratio']:.2f}",
            f"{each['seconds_per_round']:.3f}",
            f"{each['time_ratio']:.2f}",
            f"{each['seconds_until_first_round_ends']:.1f}",
        )
        for each in found
    ]
    print(
        f"{arguments.training} twins look and train in each of {arguments.rounds} rounds; "
        f"{arguments.engine} engine, one thread.\n"
    )
    print(table(columns, rows))
    held = found[-1]["memory_ratio"] <= MOST_MEMORY and found[-1]["time_ratio"] <= MOST_TIME
    print(
        f"\nBounds at {arguments.twins[-1]:,} twins, memory {MOST_MEMORY} and time {MOST_TIME}: "
        f"{'held' if held else '**not held**'}."
    )
    if arguments.out:
        write_results(arguments.out, arguments, counts=found, held=held)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
