"""FedKA's local step with a teacher: images per second of ours and of the plain reference.

``python -m benchmarks.local_step`` uses OrganAMNIST images and also prints the share of the
measured peak. ``--habits`` shows the cost of each habit of the reference, ``--profile`` where the
time goes. Ours is called as a twin calls it: ``train_locally`` with ``METHODS["fedka"]``.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.flops import model_flops_per_image
from benchmarks.machine import Peak, Precision, measure_peak, peak_table
from benchmarks.measuring import (
    duration,
    parser,
    print_progress,
    scaled,
    table,
    time_in_turns,
    use_threads,
)
from benchmarks.reference import Habits, PlainNetwork, PlainTask, loader_of, train_plainly
from federation.methods import METHODS
from incremental.head import Weights, grow_head
from incremental.network import NetworkConfig, build_network, freeze, initial_weights
from physical.datasets import load_dataset
from physical.transforms import to_tensor
from twin.local_training import TrainingConfig, train_locally
from twin.objective import LocalContext

# The second task of organa_paper: three finished classes and three current ones.
GROUPS = ((0, 1, 2), (3, 4, 5))
OLD_ROWS, ROWS = 3, 6
THIN = NetworkConfig(backbone="resnet10", width=16, image_size=28)
FULL = NetworkConfig(backbone="resnet18", width=64, image_size=32)
NETWORKS = {"thin": THIN, "full": FULL}
NAMES = {"thin": "resnet10 w16, 28 px", "full": "resnet18 w64, 32 px"}
RATE = 0.01  # small, because overflow and denormal numbers would change the speed


@dataclass(frozen=True)
class Case:
    """One comparison.

    Args:
        network: ``thin`` or ``full``.
        batch_size: Number of images in a step.
        steps: Number of steps in one timing.
        precision: Precision of ours; the reference uses float32.
        device: torch device.
    """

    network: str
    batch_size: int
    steps: int
    precision: Precision = "bfloat16"
    device: str = "cpu"

    @property
    def num_images(self) -> int:
        """Number of images in one timing."""
        return self.batch_size * self.steps


@dataclass(frozen=True)
class Material:
    """Data and networks of a local step.

    Args:
        images: 8-bit arrays, shape [N, H, W, C].
        rows: Classes, 0 to 5, shape [N].
        weights: Weights of the student.
        old_weights: Weights of the teacher.
        network: Configuration of both networks.
    """

    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    weights: Weights
    old_weights: Weights
    network: NetworkConfig


def organ_images(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images of the first six organs, the same number of each, in a fixed mixed order."""
    train = load_dataset("organamnist").train
    each = -(-count // ROWS)
    positions = np.stack(
        [np.flatnonzero(train.labels == row)[:each] for row in range(ROWS)], 1
    ).reshape(-1)[:count]
    return train.images[positions], train.labels[positions]


def make_material(case: Case) -> Material:
    """Return the images and networks of a case."""
    images, rows = organ_images(case.num_images)
    network = NETWORKS[case.network]
    generator = torch.Generator().manual_seed(1)
    old_weights = grow_head(initial_weights(network, 1), OLD_ROWS, generator)
    return Material(
        images, rows, grow_head(old_weights, ROWS - OLD_ROWS, generator), old_weights, network
    )


def our_step(case: Case, material: Material) -> Callable[[], object]:
    """Return a function that does one timing's work on our side."""
    images = to_tensor(material.images).to(case.device)
    rows = torch.from_numpy(material.rows).to(case.device)
    network = build_network(material.network, material.weights).to(case.device)
    teacher = freeze(build_network(material.network, material.old_weights)).to(case.device)
    method = METHODS["fedka"]()
    config = TrainingConfig(
        epochs=1, batch_size=case.batch_size, learning_rate=RATE, precision=case.precision
    )

    def work() -> None:
        context = LocalContext(
            num_rows=ROWS,
            groups=GROUPS,
            global_weights=material.weights,
            old_network=teacher,
            old_rows=OLD_ROWS,
            num_steps=case.steps,
            learning_rates=(RATE,),
        )
        result = train_locally(
            network,
            images,
            rows,
            method,
            context,
            config,
            (RATE,),
            torch.Generator().manual_seed(1),
        )
        assert all(np.isfinite(value) for value in result.metrics.values()), result.metrics

    return work


def plain_step(
    case: Case, material: Material, habits: Habits | None = None
) -> Callable[[], object]:
    """Return a function that does one timing's work of the reference."""
    student = PlainNetwork(build_network(material.network, material.weights)).to(case.device)
    teacher = PlainNetwork(build_network(material.network, material.old_weights)).to(case.device)
    loader = loader_of(
        material.images,
        material.rows.tolist(),
        material.network,
        case.batch_size,
        training=True,
        habits=habits,
    )

    def work() -> None:
        values = train_plainly(
            student, teacher, loader, PlainTask(GROUPS), 1, RATE, habits, case.device
        )
        assert all(np.isfinite(value) for value in values.values()), values

    return work


def compare(case: Case, repeats: int, peak: Peak) -> list[str]:
    """Return a case's row of the table."""
    print_progress(f"local step: {case}")
    material = make_material(case)
    seconds = time_in_turns(
        {"ours": our_step(case, material), "reference": plain_step(case, material)}, repeats
    )
    flops = model_flops_per_image(material.network, ROWS, OLD_ROWS) * case.num_images
    return [
        NAMES[case.network],
        str(case.batch_size),
        case.precision,
        f"{case.num_images / seconds['ours']:.0f}",
        f"{case.num_images / seconds['reference']:.1f}",
        f"{seconds['reference'] / seconds['ours']:.1f}",
        scaled(flops / case.num_images, "FLOP"),
        f"{flops / seconds['ours'] / peak.flops[case.precision]:.1%}",
        f"{flops / seconds['reference'] / peak.flops['float32']:.1%}",
    ]


HEADERS = (
    "network",
    "batch",
    "ours in",
    "ours, images/s",
    "reference, images/s",
    "ratio",
    "model FLOP/image",
    "ours, share of peak",
    "reference, share of float32 peak",
)


def habits_table(case: Case, repeats: int) -> str:
    """Return the speed of the reference without each of its habits, and without all."""
    material = make_material(case)
    names = ("per_image_transforms", "teacher_graph", "library_maps", "items")
    variants = {"reference": Habits()}
    variants |= {f"without {name}": replace(Habits(), **{name: False}) for name in names}
    variants["without all four"] = Habits(False, False, False, False)
    works = {name: plain_step(case, material, habits) for name, habits in variants.items()}
    in_float32 = replace(case, precision="float32")
    works |= {
        "ours, float32": our_step(in_float32, material),
        f"ours, {case.precision}": our_step(case, material),
    }
    seconds = time_in_turns(works, repeats)
    rows = [
        (
            name,
            f"{case.num_images / each:.1f}",
            f"{seconds['reference'] / each:.2f}",
            duration(each / case.steps),
        )
        for name, each in seconds.items()
    ]
    return table(
        (
            f"{NAMES[case.network]}, batch {case.batch_size}",
            "images/s",
            "times the reference",
            "step",
        ),
        rows,
    )


def main(arguments: list[str] | None = None) -> None:
    """Print the table of the comparison, and those that are asked for."""
    settings = _options(arguments)
    use_threads(settings.threads)
    cases = cases_of(settings)
    if settings.profile:
        from benchmarks.profiling import profile_table

        for case in cases:
            for side, make in (("ours", our_step), ("reference", plain_step)):
                print(
                    profile_table(
                        f"{side}: {NAMES[case.network]}, batch {case.batch_size}",
                        make(case, make_material(case)),
                        case.steps,
                    )
                )
                print()
        return
    if settings.habits:
        for case in cases:
            print(habits_table(case, settings.repeats) + "\n")
        return
    peak = measure_peak(settings.threads, tuple(settings.sizes), settings.megabytes)
    print(peak_table(peak) + "\n")
    print(table(HEADERS, [compare(case, settings.repeats, peak) for case in cases]))
    print(
        f"\nMedians of {settings.repeats} turns, ours and reference in turn, "
        f"{settings.threads} threads. Model FLOP: student forward and backward and teacher "
        "forward, once each, whatever either side really computes."
    )


def case_parser(description: str | None, thin: int = 8, full: int = 2) -> argparse.ArgumentParser:
    """Return a command line that selects the cases to compare.

    Args:
        description: Description of the benchmark.
        thin: Default number of steps of one timing of the thin network.
        full: Default number of steps of one timing of the full network.
    """
    options = parser(description)
    options.set_defaults(usual_steps={"thin": thin, "full": full})
    options.add_argument(
        "--networks",
        nargs="+",
        choices=list(NETWORKS),
        default=list(NETWORKS),
        help="thin and full network",
    )
    options.add_argument("--batches", nargs="+", type=int, default=[32, 128], help="batch sizes")
    options.add_argument(
        "--steps", type=int, default=0, help=f"steps of one timing; 0: {thin} thin, {full} full"
    )
    options.add_argument("--repeats", type=int, default=3, help="timings of each side")
    options.add_argument(
        "--precision", choices=["bfloat16", "float32"], default="bfloat16", help="of ours"
    )
    return options


def cases_of(settings: argparse.Namespace) -> list[Case]:
    """Return the cases that the command line selects."""
    precision = cast(Precision, settings.precision)
    return [
        Case(network, batch, settings.steps or settings.usual_steps[network], precision)
        for network in settings.networks
        for batch in settings.batches
    ]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    options = case_parser(__doc__)
    options.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[1024, 2048, 4096],
        help="sides of the matrices of the peak",
    )
    options.add_argument(
        "--megabytes", type=int, default=1024, help="array size of the memory's peak"
    )
    options.add_argument("--profile", action="store_true", help="print where the time goes instead")
    options.add_argument(
        "--habits", action="store_true", help="print what each habit of the reference costs instead"
    )
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
