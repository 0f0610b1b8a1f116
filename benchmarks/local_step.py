"""FedKA's local step with a teacher.

Ours against the plain reference, images per second and share of the measured matrix product's peak.

``python -m benchmarks.local_step`` on real OrganAMNIST images; ``--habits`` shows what each habit
of the reference costs, ``--profile`` where the time goes. Ours is called as a twin calls it:
``train_locally`` with ``METHODS["fedka"]`` and a ``LocalContext``.
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
from benchmarks.measuring import alternately, duration, parser, scaled, table, tell, use_threads
from benchmarks.reference import Habits, PlainNetwork, PlainTask, loader_of, train_plainly
from federation.methods import METHODS
from incremental.head import Weights, grow_head
from incremental.network import NetworkConfig, build_network, freeze, initial_weights
from physical.datasets import load_dataset
from physical.transforms import to_tensor
from twin.local_training import TrainingConfig, train_locally
from twin.objective import LocalContext

GROUPS = (
    (0, 1, 2),
    (3, 4, 5),
)  # the second task of organa_paper: three classes finished, three being learned
OLD_ROWS, ROWS = 3, 6
THIN = NetworkConfig(backbone="resnet10", width=16, image_size=28)
FULL = NetworkConfig(backbone="resnet18", width=64, image_size=32)
NETWORKS = {"thin": THIN, "full": FULL}
NAMES = {"thin": "resnet10 w16, 28 px", "full": "resnet18 w64, 32 px"}
# Small, so that numbers stay ordinary whatever the images: overflow and denormals would change the
# speed.
RATE = 0.01


@dataclass(frozen=True)
class Case:
    """One comparison.

    Args:
        network: ``thin`` or ``full``.
        batch_size: Images of a step.
        steps: Steps of one timing.
        precision: Of ours; the reference is float32.
        device: Where.
    """

    network: str
    batch_size: int
    steps: int
    precision: Precision = "bfloat16"
    device: str = "cpu"

    @property
    def num_images(self) -> int:
        """Images of one timing."""
        return self.batch_size * self.steps


@dataclass(frozen=True)
class Material:
    """What a local step needs.

    Args:
        images: 8-bit arrays, shape [N, H, W, C].
        rows: Classes, 0 to 5.
        weights: The student's.
        old_weights: The teacher's.
        network: What they belong to.
    """

    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    weights: Weights
    old_weights: Weights
    network: NetworkConfig


def organ_images(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return real images of the first six organs.

    The same number of each, in a fixed mixed order.
    """
    train = load_dataset("organamnist").train
    each = -(-count // ROWS)
    positions = np.stack(
        [np.flatnonzero(train.labels == row)[:each] for row in range(ROWS)], 1
    ).reshape(-1)[:count]
    return train.images[positions], train.labels[positions]


def material(case: Case) -> Material:
    """Return images and networks of a case."""
    images, rows = organ_images(case.num_images)
    network = NETWORKS[case.network]
    generator = torch.Generator().manual_seed(1)
    old_weights = grow_head(initial_weights(network, 1), OLD_ROWS, generator)
    return Material(
        images, rows, grow_head(old_weights, ROWS - OLD_ROWS, generator), old_weights, network
    )


def our_step(case: Case, given: Material) -> Callable[[], object]:
    """Return the work of one timing on our side."""
    images = to_tensor(given.images).to(case.device)
    rows = torch.from_numpy(given.rows).to(case.device)
    network = build_network(given.network, given.weights).to(case.device)
    teacher = freeze(build_network(given.network, given.old_weights)).to(case.device)
    method = METHODS["fedka"]()
    config = TrainingConfig(
        epochs=1, batch_size=case.batch_size, learning_rate=RATE, precision=case.precision
    )

    def work() -> None:
        context = LocalContext(
            num_rows=ROWS,
            groups=GROUPS,
            global_weights=given.weights,
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


def plain_step(case: Case, given: Material, habits: Habits | None = None) -> Callable[[], object]:
    """Return the work of one timing of the reference."""
    student = PlainNetwork(build_network(given.network, given.weights)).to(case.device)
    teacher = PlainNetwork(build_network(given.network, given.old_weights)).to(case.device)
    loader = loader_of(
        given.images,
        given.rows.tolist(),
        given.network,
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
    """Return one row of the table."""
    tell(f"local step: {case}")
    given = material(case)
    seconds = alternately(
        {"ours": our_step(case, given), "reference": plain_step(case, given)}, repeats
    )
    flops = model_flops_per_image(given.network, ROWS, OLD_ROWS) * case.num_images
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
    """Return what the reference takes without each of its habits, and without all."""
    given = material(case)
    names = ("per_image_transforms", "teacher_graph", "library_maps", "items")
    variants = {"reference": Habits()}
    variants |= {f"without {name}": replace(Habits(), **{name: False}) for name in names}
    variants["without all four"] = Habits(False, False, False, False)
    works = {name: plain_step(case, given, habits) for name, habits in variants.items()}
    in_float32 = replace(case, precision="float32")
    works |= {
        "ours, float32": our_step(in_float32, given),
        f"ours, {case.precision}": our_step(case, given),
    }
    seconds = alternately(works, repeats)
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
    given = _options(arguments)
    use_threads(given.threads)
    cases = cases_of(given)
    if given.profile:
        from benchmarks.profiling import profile_table

        for case in cases:
            for side, make in (("ours", our_step), ("reference", plain_step)):
                print(
                    profile_table(
                        f"{side}: {NAMES[case.network]}, batch {case.batch_size}",
                        make(case, material(case)),
                        case.steps,
                    )
                )
                print()
        return
    if given.habits:
        for case in cases:
            print(habits_table(case, given.repeats) + "\n")
        return
    peak = measure_peak(given.threads, tuple(given.sizes), given.megabytes)
    print(peak_table(peak) + "\n")
    print(table(HEADERS, [compare(case, given.repeats, peak) for case in cases]))
    print(
        f"\nMedians of {given.repeats} turns, ours and reference in turn, {given.threads} threads. "
        "Model FLOP: student forward and "
        "backward and teacher forward, once each, whatever either side really computes."
    )


def case_parser(description: str | None, thin: int = 8, full: int = 2) -> argparse.ArgumentParser:
    """Return a command line that says which cases are compared.

    Args:
        description: Of the benchmark.
        thin: Steps of one timing of the thin network where nothing else is said.
        full: Likewise of the full one.
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


def cases_of(given: argparse.Namespace) -> list[Case]:
    """Return the cases that such a command line asks for."""
    precision = cast(Precision, given.precision)
    return [
        Case(network, batch, given.steps or given.usual_steps[network], precision)
        for network in given.networks
        for batch in given.batches
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
