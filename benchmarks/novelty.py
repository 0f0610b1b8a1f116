"""Detection of unknown organs in streams of CT slices; each of the eleven organs in turn is new.

For each organ a network is trained on the training images of the other ten. The hospital's history
are named images of these ten: training images and, for the threshold, held-back validation images.
The stream are the official, unnamed test images of all eleven. Scores, threshold and groups are
those of the console (``twin.review``); four scores are compared.

    python -m benchmarks.novelty --out runs/novelty            # all; about ten minutes on one core
    python -m benchmarks.novelty --out /tmp/try --organs 1 --images 2000 --epochs 1

Trained models are kept under ``--out``, so that a second call takes a minute. Writes
``novelty.md`` and ``novelty.json`` there.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

# read when torch is imported; networks this small are slower with more threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress

from federation.methods.fedavg import FedAvg
from federation.seeding import seed_for
from incremental.head import grow_head
from incremental.model_file import ModelError, read_manifest, save_model
from incremental.network import NetworkConfig, build_network, initial_weights, weights_of
from physical.batch import Batch
from physical.datasets import load_dataset
from physical.datasets.dataset import ImageDataset
from physical.mirror import ImageFacts
from physical.transforms import AugmentationConfig
from twin.local_training import TrainingConfig, learning_rate, train_locally
from twin.objective import LocalContext
from twin.review.grouping import group
from twin.review.image_model import ImageModel
from twin.review.novelty_scores import SCORES, Looks, Score, joined
from twin.review.reference_images import make_reference_images
from twin.review.triage import TriageConfig

NETWORK = NetworkConfig(backbone="resnet10", width=16, image_size=28, channels=1)
Report = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """Result of one score on the stream of one unknown organ.

    Args:
        organ: The unknown organ.
        score: Name of the score.
        auroc: Chance that an image of the organ scores higher than one of a known organ.
        found: Share of the organ's images above the threshold.
        false_new: Share of the known organs' images above the threshold.
        in_right_case: Share of the organ's images in cases of which it is the majority.
        in_largest_right_case: The same for the largest such case only.
        purity: Share of the organ in the cases of which it is the majority; None without one.
        cases: Number of cases opened.
        right_cases: Number of cases of which the organ is the majority.
        false_cases_per_1000: Other cases for each 1,000 images of known organs.
        accuracy: Accuracy of the network on the known organs' test images.
        group_seconds: Time of the grouping [s].
    """

    organ: str
    score: Score
    auroc: float
    found: float
    false_new: float
    in_right_case: float
    in_largest_right_case: float
    purity: float | None
    cases: int
    right_cases: int
    false_cases_per_1000: float
    accuracy: float
    group_seconds: float


@dataclass(frozen=True)
class Size:
    """Amount of computation.

    Args:
        training_images: Training images of one model.
        images: Images of the stream and of the held-back history; None: all.
        epochs: Passes over the training images.
        seed: Seed of weights, order and augmentation.
    """

    training_images: int
    images: int | None
    epochs: int
    seed: int


def trained_model(data: ImageDataset, organ: str, size: Size, out: Path, report: Report) -> Path:
    """Return the folder of a model of all organs but one, trained if it is missing."""
    folder = (
        out
        / "models"
        / f"without-{organ}-{size.training_images}-images-{size.epochs}-epochs-seed-{size.seed}"
    )
    names = [name for name in data.sheet.class_names if name != organ]
    try:
        if read_manifest(folder)["dataset_digest"] == data.digest:
            return folder
    except (ModelError, KeyError):
        report(f"training without {organ}")
    batch = evenly_spaced(without(data.train, organ), size.training_images)
    training = TrainingConfig(
        epochs=size.epochs,
        batch_size=64,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        precision="bfloat16",
        augmentation=AugmentationConfig(crop_padding_pixels=2, brightness=0.1),
    )
    generator = torch.Generator().manual_seed(seed_for(size.seed, "train", organ))
    weights = grow_head(
        initial_weights(NETWORK, seed_for(size.seed, "weights", organ)), len(names), generator
    )
    network = build_network(NETWORK, weights)
    pixels = torch.from_numpy(np.ascontiguousarray(batch.images.transpose(0, 3, 1, 2)))
    rows = torch.from_numpy(
        np.array([names.index(batch.vocabulary[label]) for label in batch.labels])
    )
    context = LocalContext(len(names), (tuple(range(len(names))),), weights, generator=generator)
    rates = [learning_rate(training, 0, epoch, 1) for epoch in range(size.epochs)]
    train_locally(
        network, pixels, rows, FedAvg(head_loss="ce"), context, training, rates, generator
    )
    save_model(
        folder,
        weights_of(network),
        NETWORK,
        names,
        {"dataset_digest": data.digest, "unknown": organ},
    )
    return folder


def without(batch: Batch, organ: str) -> Batch:
    """Return the images of all other organs."""
    return batch.take(np.flatnonzero(batch.labels != batch.vocabulary.index(organ)))


def evenly_spaced(batch: Batch, most: int | None) -> Batch:
    """Return at most ``most`` images, evenly spaced."""
    return batch.take(
        np.linspace(0, len(batch) - 1, min(len(batch), most or len(batch))).astype(np.int64)
    )


def model_outputs(image_model: ImageModel, batch: Batch) -> Looks:
    """Return a model's outputs for a batch, a thousand images at a time."""
    return joined(
        [
            image_model.look(batch.images[start : start + 1000])
            for start in range(0, len(batch), 1000)
        ]
    )


def names_of(batch: Batch) -> NDArray[np.str_]:
    """Return the organ of each image."""
    return np.array(batch.vocabulary)[batch.labels]


def auroc(scores: NDArray[np.floating], is_new: NDArray[np.bool_]) -> float:
    """Return the chance that a new image scores above a known one; ties count half.

    This is the statistic of Mann and Whitney.
    """
    ordered = np.sort(scores[~is_new])
    below = np.searchsorted(ordered, scores[is_new], "left")
    not_above = np.searchsorted(ordered, scores[is_new], "right")
    return float((below + not_above).mean() / 2 / len(ordered))


def judge(
    data: ImageDataset, organ: str, model: Path, size: Size, config: TriageConfig
) -> list[Outcome]:
    """Return the result of each score on the stream with this unknown organ."""
    image_model = ImageModel(model)
    trained_on = evenly_spaced(without(data.train, organ), config.most_history)
    held_back = evenly_spaced(without(data.validation, organ), size.images)
    history = [
        ImageFacts(f"{part}-{index}", "", f"{part}-{index}", "", str(name), "npz")
        for part, batch in (("train", trained_on), ("held-back", held_back))
        for index, name in enumerate(names_of(batch))
    ]
    looks = joined([model_outputs(image_model, trained_on), model_outputs(image_model, held_back)])
    stream = evenly_spaced(data.test, size.images)
    organs, seen = names_of(stream), model_outputs(image_model, stream)
    is_new = organs == organ
    accuracy = float((np.array(image_model.facts.class_names)[seen.rows] == organs)[~is_new].mean())
    held_back_ids = {each.image_id for each in history if each.image_id.startswith("held-back")}
    outcomes = []
    for score in SCORES:
        standard = make_reference_images(
            history,
            looks,
            score,
            config.quantile,
            config.minimum_history,
            config.tightness,
            held_back_ids,
        )
        scores = standard.scores(seen)
        looks_new = scores > standard.threshold
        began = perf_counter()
        labels = group(
            standard.known.places(seen.features[looks_new]),
            standard.similarity,
            config.minimum_group,
            config.most_new_cases,
        )
        outcomes.append(
            Outcome(
                organ=organ,
                score=score,
                auroc=auroc(scores, is_new),
                found=float(looks_new[is_new].mean()),
                false_new=float(looks_new[~is_new].mean()),
                accuracy=accuracy,
                group_seconds=perf_counter() - began,
                **measure_cases(labels, is_new[looks_new], int(is_new.sum()), int((~is_new).sum())),
            )
        )
    return outcomes


def measure_cases(
    labels: NDArray[np.int64], is_new: NDArray[np.bool_], num_new: int, num_known: int
) -> dict[str, Any]:
    """Return the quality of the cases.

    Args:
        labels: Case of each image that looks new; -1: none.
        is_new: Whether each of these images shows the unknown organ.
        num_new: Images of the unknown organ in the stream.
        num_known: Images of known organs in the stream.
    """
    cases = [labels == label for label in range(labels.max(initial=-1) + 1)]
    right = [case for case in cases if is_new[case].mean() > 0.5]
    sizes = [int(is_new[case].sum()) for case in right]
    return {
        "in_right_case": sum(sizes) / num_new,
        "in_largest_right_case": max(sizes, default=0) / num_new,
        "purity": sum(sizes) / sum(int(case.sum()) for case in right) if right else None,
        "cases": len(cases),
        "right_cases": len(right),
        "false_cases_per_1000": 1000 * (len(cases) - len(right)) / num_known,
    }


COLUMNS = {
    "auroc": "AUROC",
    "found": "looks new",
    "false_new": "known that look new",
    "in_right_case": "in a right case",
    "in_largest_right_case": "in the largest right case",
    "purity": "purity",
    "cases": "cases",
    "false_cases_per_1000": "false cases per 1,000 known",
}


def tables(outcomes: Sequence[Outcome], size: Size, config: TriageConfig) -> Iterator[str]:
    """Yield the lines of the report."""
    organs = list(dict.fromkeys(each.organ for each in outcomes))
    accuracy = np.mean([each.accuracy for each in outcomes])
    yield "# Detection of an unknown organ\n"
    yield (
        f"OrganAMNIST, {len(organs)} organs in turn. A ResNet-10 of width 16 at 28 px, "
        f"{size.epochs} epochs on {size.training_images} images, mean accuracy on known organs "
        f"{accuracy:.3f}, seed {size.seed}. Threshold: quantile {config.quantile} of held-back "
        f"validation images. Cases of {config.minimum_group} images or more, "
        f"tightness {config.tightness}. Mean ± standard deviation.\n"
    )
    yield _row("score", list(COLUMNS.values()))
    yield _row("---", ["---"] * len(COLUMNS))
    for score in SCORES:
        of_score = [each for each in outcomes if each.score == score]
        yield _row(score, [mean_and_spread(of_score, field) for field in COLUMNS])
    for score in SCORES:
        yield f"\n## {score}\n"
        yield _row("unknown organ", list(COLUMNS.values()))
        yield _row("---", ["---"] * len(COLUMNS))
        for each in outcomes:
            if each.score == score:
                yield _row(each.organ, [formatted(getattr(each, field)) for field in COLUMNS])


def _row(first: str, cells: Sequence[str]) -> str:
    return f"| {first} | {' | '.join(cells)} |"


def mean_and_spread(outcomes: Sequence[Outcome], field: str) -> str:
    """Return the mean over organs and its standard deviation, leaving out None."""
    values = [float(value) for each in outcomes if (value := getattr(each, field)) is not None]
    if not values:
        return "-"
    return formatted(float(np.mean(values))) + (
        f" ± {formatted(float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
    )


def formatted(value: float | int | None) -> str:
    """Return a number as the tables show it."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of models and tables")
    parser.add_argument(
        "--organs", type=int, default=11, help="how many organs, in alphabetical order"
    )
    parser.add_argument(
        "--training-images",
        type=int,
        default=12_000,
        help="of each model; 40 s on one core with three epochs",
    )
    parser.add_argument(
        "--images", type=int, help="most images of anything: training, history, stream; none: all"
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    training_images = min(options.training_images, options.images or options.training_images)
    size = Size(training_images, options.images, options.epochs, options.seed)
    config = TriageConfig(most_history=5000)
    torch.set_num_threads(1)
    data = load_dataset("organamnist")
    organs = sorted(data.sheet.class_names)[: options.organs]
    outcomes: list[Outcome] = []
    with Progress() as progress:
        task = progress.add_task("", total=len(organs))
        for organ in organs:
            progress.update(task, description=f"without {organ}")
            began = perf_counter()
            model = trained_model(data, organ, size, options.out, progress.console.print)
            outcomes += judge(data, organ, model, size, config)
            entropy = next(each for each in outcomes if each.organ == organ)
            progress.console.print(
                f"{organ}: AUROC {entropy.auroc:.3f} by entropy, {perf_counter() - began:.0f} s"
            )
            progress.advance(task)
    report = "\n".join(tables(outcomes, size, config)) + "\n"
    (options.out / "novelty.md").write_text(report, encoding="utf-8")
    settings = {"size": asdict(size), "config": asdict(config), "dataset": data.digest}
    settings["mean and spread"] = {
        score: {
            field: mean_and_spread([each for each in outcomes if each.score == score], field)
            for field in COLUMNS
        }
        for score in SCORES
    }
    (options.out / "novelty.json").write_text(
        json.dumps(settings | {"outcomes": [asdict(each) for each in outcomes]}, indent=1),
        encoding="utf-8",
    )
    Console().print(Markdown(report))


if __name__ == "__main__":
    main()
