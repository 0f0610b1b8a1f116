"""Accuracy of FedAvg against epsilon: noise on each image's gradient, or on a whole update.

Four hospitals share the images of six organs (OrganAMNIST) and train a small network without batch
normalisation, all in every round. Each row is the mean over seeds of the accuracy on test images
after the last round, and the epsilon of the twin that has spent most. Both epsilons are counted by
the platform: one protects one image, the other all images of a hospital.

    python -m benchmarks.privacy_cost          # the table of docs/privacy.md
    python -m benchmarks.privacy_cost --dataset phantom_axial --seeds 1 --rounds 2     # seconds

Noise is seeded here, so that the table can be reproduced.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from time import process_time

# read when torch is imported; networks this small are slower with more threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.measuring import ROOT, print_progress, table
from federation.experiment.config import ExperimentConfig, load_experiment
from federation.experiment.loop import run_experiment, with_seed
from federation.experiment.run_folder import RunFolder

BASE = (
    "name=privacy_cost",
    "description=accuracy against epsilon",
    "scenario.num_tasks=1",
    "scenario.classes_per_task=6",
    "scenario.heterogeneity=1.0",
    "scenario.images=disjoint",
    "hospitals={initial: 4, join_per_task: 0}",
    "network={backbone: lenet, width: 8, norm: group, image_size: 28, channels: 1}",
    "method={name: fedavg}",
    "training={epochs: 1, batch_size: 64, learning_rate: 0.2, momentum: 0.9, schedule: constant, "
    "gradient_clip: null}",
    "training.augmentation={crop_padding_pixels: 0, brightness: 0.0}",
    "twin.held_back_fraction=0",
    # noise on every weight is a large change, which screening must accept here
    "federation={twins_per_round: 4, screening: {max_relative_change: 1.0e+6}}",
    "evaluation={round_images: 0, task_images: 3000}",
    "engine={name: sequential}",
    "tracking.enabled=false",
)
PER_IMAGE, PER_UPDATE = (0.6, 1.0, 2.0, 4.0), (0.01, 0.1, 1.0, 10.0)


@dataclass
class Row:
    """One level of noise.

    Args:
        mechanism: Name of the mechanism, in words.
        noise: Noise multiplier of the configuration; None without noise.
        changes: Changes of the configuration.
        accuracies: Accuracy on test images for each seed.
        epsilon: Epsilon of the twin that has spent most; None without noise.
    """

    mechanism: str
    noise: float | None
    changes: tuple[str, ...] = ()
    accuracies: list[float] = field(default_factory=list)
    epsilon: float | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        spread = f" ± {100 * stdev(self.accuracies):.1f}" if len(self.accuracies) > 1 else ""
        epsilon = "no limit" if self.epsilon is None else f"{self.epsilon:.3g}"
        noise = "–" if self.noise is None else f"{self.noise:g}"
        return self.mechanism, noise, epsilon, f"{100 * mean(self.accuracies):.1f}{spread}"


def rows() -> list[Row]:
    """Return the levels of noise of both mechanisms."""
    return [
        Row("none", None),
        *(
            Row(
                "one image (DP-SGD)",
                noise,
                (f"training.private={{noise_multiplier: {noise}, max_grad_norm: 1.0}}",),
            )
            for noise in PER_IMAGE
        ),
        *(
            Row(
                "whole update",
                noise,
                (f"outgoing={{noise: {{clip_norm: 1.0, noise_multiplier: {noise}}}}}",),
            )
            for noise in PER_UPDATE
        ),
    ]


def measure(row: Row, seed: int, changes: Sequence[str]) -> None:
    """Run one level of noise with one seed and add its result to the row."""
    config: ExperimentConfig = with_seed(
        load_experiment(ROOT / "hospital_configs" / "organa_cpu", [*BASE, *changes, *row.changes]),
        seed,
    )
    with TemporaryDirectory() as scratch:
        out = Path(scratch) / "run"
        results = run_experiment(config, out)
        spent = [
            record["epsilon"] for record in RunFolder(out).read_records() if "epsilon" in record
        ]
    row.accuracies.append(results["last_accuracy"])
    row.epsilon = max((*spent, row.epsilon or 0.0)) if spent else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--dataset", default="organamnist", help="a data set with at least six classes"
    )
    options.add_argument("--seeds", type=int, default=3, help="runs of each level of noise")
    options.add_argument("--rounds", type=int, default=10, help="rounds of each run")
    options.add_argument(
        "--images", type=int, default=800, help="training images of each class, over all hospitals"
    )
    settings = options.parse_args(arguments)
    changes = [
        f"scenario.dataset={settings.dataset}",
        f"scenario.rounds_per_task={settings.rounds}",
        f"scenario.images_per_class={settings.images}",
    ]
    changes.append("engine.threads=1")
    begun, levels = process_time(), rows()
    for row in levels:
        for seed in range(1, settings.seeds + 1):
            measure(row, seed, changes)
        print_progress(f"  {' | '.join(row.cells())}  ({process_time() - begun:.0f} s)")
    print(
        table(
            ("protected", "noise multiplier", "epsilon (delta 1e-5)", "accuracy [%]"),
            [row.cells() for row in levels],
        )
    )
    print(
        f"\n{settings.dataset}, {settings.seeds} seeds, {settings.rounds} rounds: "
        f"{process_time() - begun:.0f} s of one core"
    )


if __name__ == "__main__":
    main()
