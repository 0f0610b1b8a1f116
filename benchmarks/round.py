"""A round of organa_paper's protocol: ours against the plain reference, and the proxy's share.

``python -m benchmarks.round`` uses the thin network, ``--full`` the full one. Two rounds are timed:
the first of the second task (new classes arrive, twins archive, a teacher appears) and its fifth,
which represents the other nine. Both sides start from the same state: same images, twins, weights,
batch size, losses and prototypes.

Images per class are reduced (``--images-per-class``), so that the reference ends in reasonable
time. The lines "all images" estimate the effect on the ratios: time to observe and to train grows
with the images, time for prototypes and proxy server does not. To make the rounds deterministic,
twins follow the rule ``by_name`` and only *watch* the paper's rule: every entropy is computed, but
the head grows in a fixed round.
"""

import argparse
from statistics import median
from time import perf_counter

import torch

from benchmarks.inversions import inversion_table
from benchmarks.measuring import parser, print_progress, use_threads
from benchmarks.plain_side import plain_side
from benchmarks.reference_round import Stages, plain_round
from benchmarks.round_tables import STAGES, stage_table, task_table
from benchmarks.round_world import Snapshot, World, growth_of_images, make_world, snapshots


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    settings = _options(arguments)
    use_threads(settings.threads)
    world = make_world(settings)
    config = world.config
    rounds: dict[str, dict[str, Stages]] = {}
    facts = []
    try:
        for name, before in snapshots(world).items():
            ours, plain, about = _time_round(world, name, before, settings)
            rounds[name] = {"ours": ours, "reference": plain}
            facts.append(about)
    finally:
        world.engine.close()
    print(
        f"Network {config.network.backbone} w{config.network.width}, "
        f"{config.network.image_size} px; {settings.images_per_class or 'all'} images per class; "
        f"{settings.epochs} epochs, batch {config.training.batch_size}; "
        f"ours in {settings.precision}, engine {settings.engine}; {settings.threads} threads; "
        f"{settings.repeats} turns, medians; the reference inverts with {settings.search}.\n"
    )
    print("\n".join(facts) + "\n")
    print(stage_table(rounds) + "\n")
    print(task_table(rounds, growth_of_images(world)))
    if settings.inversions:
        print("\n" + inversion_table(config))


def _time_round(
    world: World, name: str, before: Snapshot, settings: argparse.Namespace
) -> tuple[Stages, Stages, str]:
    print_progress(f"round: {name}")
    ran = world.ours(before)  # warms up, and provides the reference's inputs
    side = plain_side(world, before, ran, settings.search, settings.invert_steps)
    times: dict[str, list[Stages]] = {"ours": [], "reference": []}
    for turn in range(1, settings.repeats + 1):
        label = f"  turn {turn}/{settings.repeats}"
        times["ours"].append(world.ours(before).seconds)
        print_progress(f"{label}, ours: {times['ours'][-1]['all']:.2f} s")
        use_threads(settings.threads)
        started = perf_counter()
        _, stages = plain_round(*side)
        times["reference"].append({**stages, "all": perf_counter() - started})
        print_progress(f"{label}, reference: {times['reference'][-1]['all']:.2f} s")
    ours, plain = (
        {key: median(each[key] for each in side) for key in (*STAGES, "all")}
        for side in times.values()
    )
    record = ran.record
    prototypes = sum(
        len(each.upload.get("prototype_gradients", torch.empty(0))) for each in record.accepted
    )
    images = sum(each.num_images for each in record.accepted)
    about = (
        f"* {name}: {len(record.observations)} twins look, {len(record.chosen)} train on "
        f"{images} images in all, "
        f"{prototypes} prototypes are inverted, "
        f"{'a' if next(iter(ran.engine.broadcasts.values())).old_model else 'no'} teacher."
    )
    return ours, plain, about


def _options(arguments: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__)
    size = options.add_mutually_exclusive_group()
    size.add_argument(
        "--thin", dest="full", action="store_false", help="resnet10 w16, 28 px (the default)"
    )
    size.add_argument("--full", action="store_true", help="resnet18 w64, 32 px")
    options.set_defaults(full=False)
    options.add_argument(
        "--images-per-class", type=int, default=None, help="0: all; none: 96 thin, 40 full"
    )
    options.add_argument(
        "--twins", type=int, default=30, help="twins of the pool in the measured task"
    )
    options.add_argument("--epochs", type=int, default=5, help="local epochs")
    options.add_argument("--repeats", type=int, default=1, help="timings of each side")
    options.add_argument(
        "--precision", choices=["bfloat16", "float32"], default="bfloat16", help="of ours"
    )
    options.add_argument(
        "--engine", choices=["sequential", "processes"], default="sequential", help="of ours"
    )
    options.add_argument(
        "--search", choices=["lbfgs", "adam"], default="adam", help="how the reference inverts"
    )
    options.add_argument(
        "--inversions", action="store_true", help="time one inversion by every search besides"
    )
    options.add_argument(
        "--invert-steps",
        type=int,
        default=0,
        help="of the reference; 0: 250 of L-BFGS, or as many Adam steps as ours",
    )
    settings = options.parse_args(arguments)
    if settings.images_per_class is None:
        settings.images_per_class = 40 if settings.full else 96
    return settings


if __name__ == "__main__":
    main()
