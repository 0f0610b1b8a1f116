"""How well are unknown organs found? Streams of real CT slices in which one organ is unknown.

Each of the eleven in turn.

For each organ a network is trained on the training images of the other ten. The hospital's history
are named images of these ten: training images, and, held back, the validation images from which the
threshold is taken. The stream is the official test images of all eleven, none named. Scores,
threshold and groups are those of the console (``twin.review``); four scores are compared.

    python -m benchmarks.novelty --out runs/novelty                              # all; about ten
    minutes on one core python -m benchmarks.novelty --out /tmp/try --organs 1 --images 2000
    --epochs 1

Trained models are kept under ``--out``, so that a second call takes a minute. Writes ``novelty.md``
and ``novelty.json`` there.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # read when torch is imported; networks this small are slower with more threads

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
    """What one score did on the stream of one organ.

    Args:
        organ: The unknown one.
        score: Name of the score.
        auroc: Chance that an image of the organ scores higher than one of a known organ.
        found: Share of the organ's images that look new.
        false_new: Share of the known organs' images that look new.
        in_right_case: Share of the organ's images that are in a case of which it is the majority.
        in_largest_right_case: The same for the largest such case alone.
        purity: Share of the organ in the cases of which it is the majority; none without such a
            case.
        cases: Cases opened.
        right_cases: Of these, cases of which the organ is the majority.
        false_cases_per_1000: Other cases for each 1,000 images of known organs.
        accuracy: Of the network on the known organs' test images.
        group_seconds: Time of the grouping.
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
    """How much is computed.

    Args:
        training_images: Of one model.
        images: Of the stream and of the held-back history; none: all.
        epochs: Passes over them.
        seed: Of weights, order and augmentation.
    """

    training_images: int
    images: int | None
    epochs: int
    seed: int


def trained_model(data: ImageDataset, organ: str, size: Size, out: Path, report: Report) -> Path:
    """Return the folder of a model of all organs but one; trained unless it is there."""
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
    batch = thinned(without(data.train, organ), size.training_images)
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


def thinned(batch: Batch, most: int | None) -> Batch:
    """Return at most so many images, evenly taken."""
    return batch.take(
        np.linspace(0, len(batch) - 1, min(len(batch), most or len(batch))).astype(np.int64)
    )


def look(looker: ImageModel, batch: Batch) -> Looks:
    """Return what a model sees, a thousand images at a time."""
    return joined(
        [looker.look(batch.images[start : start + 1000]) for start in range(0, len(batch), 1000)]
    )


def names_of(batch: Batch) -> NDArray[np.str_]:
    """Return the organ of each image."""
    return np.array(batch.vocabulary)[batch.labels]


def auroc(scores: NDArray[np.floating], is_new: NDArray[np.bool_]) -> float:
    """Return the chance that a new image scores higher than a known one, ties counted half.

    Mann and Whitney.
    """
    ordered = np.sort(scores[~is_new])
    below = np.searchsorted(ordered, scores[is_new], "left")
    not_above = np.searchsorted(ordered, scores[is_new], "right")
    return float((below + not_above).mean() / 2 / len(ordered))


def judge(
    data: ImageDataset, organ: str, model: Path, size: Size, config: TriageConfig
) -> list[Outcome]:
    """Return what each score does on the stream in which an organ is unknown."""
    looker = ImageModel(model)
    trained_on, held_back = (
        thinned(without(data.train, organ), config.most_history),
        thinned(without(data.validation, organ), size.images),
    )
    history = [
        ImageFacts(f"{part}-{index}", "", f"{part}-{index}", "", str(name), "npz")
        for part, batch in (("train", trained_on), ("held-back", held_back))
        for index, name in enumerate(names_of(batch))
    ]
    looks = joined([look(looker, trained_on), look(looker, held_back)])
    stream = thinned(data.test, size.images)
    organs, seen = names_of(stream), look(looker, stream)
    is_new = organs == organ
    accuracy = float((np.array(looker.facts.class_names)[seen.rows] == organs)[~is_new].mean())
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
    """Return what the cases are worth.

    Args:
        labels: Case of each image that looks new; -1: none.
        is_new: Which of these show the unknown organ.
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
        f"{size.epochs} epochs on {size.training_images} "
        f"images, mean accuracy on known organs {accuracy:.3f}, seed {size.seed}. Threshold: "
        f"quantile {config.quantile} of held-back "
        f"validation images. Cases of {config.minimum_group} images or more, tightness "
        f"{config.tightness}. Mean ± standard deviation.\n"
    )
    yield f"| score | {' | '.join(COLUMNS.values())} |"
    yield f"| --- {'| --- ' * len(COLUMNS)}|"
    for score in SCORES:
        own = [each for each in outcomes if each.score == score]
        yield f"| {score} | {' | '.join(mean_and_spread(own, field) for field in COLUMNS)} |"
    for score in SCORES:
        yield f"\n## {score}\n"
        yield f"| unknown organ | {' | '.join(COLUMNS.values())} |"
        yield f"| --- {'| --- ' * len(COLUMNS)}|"
        for each in outcomes:
            if each.score == score:
                cells = " | ".join(shown(getattr(each, field)) for field in COLUMNS)
                yield f"| {each.organ} | {cells} |"


def mean_and_spread(outcomes: Sequence[Outcome], field: str) -> str:
    """Return the mean over organs and its standard deviation; what is none is left out."""
    values = [float(value) for each in outcomes if (value := getattr(each, field)) is not None]
    if not values:
        return "-"
    return shown(float(np.mean(values))) + (
        f" ± {shown(float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
    )


def shown(value: float | int | None) -> str:
    """Return a number as the tables show it."""
    return (
        "-"
        if value is None
        else str(value)
        if isinstance(value, int)
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.3f}"
    )


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
    asked = parser.parse_args()
    training_images = min(asked.training_images, asked.images or asked.training_images)
    size, config = (
        Size(training_images, asked.images, asked.epochs, asked.seed),
        TriageConfig(most_history=5000),
    )
    torch.set_num_threads(1)
    data = load_dataset("organamnist")
    organs = sorted(data.sheet.class_names)[: asked.organs]
    outcomes: list[Outcome] = []
    with Progress() as progress:
        task = progress.add_task("", total=len(organs))
        for organ in organs:
            progress.update(task, description=f"without {organ}")
            began = perf_counter()
            model = trained_model(data, organ, size, asked.out, progress.console.print)
            outcomes += judge(data, organ, model, size, config)
            entropy = next(each for each in outcomes if each.organ == organ)
            progress.console.print(
                f"{organ}: AUROC {entropy.auroc:.3f} by entropy, {perf_counter() - began:.0f} s"
            )
            progress.advance(task)
    report = "\n".join(tables(outcomes, size, config)) + "\n"
    (asked.out / "novelty.md").write_text(report, encoding="utf-8")
    settings = {"size": asdict(size), "config": asdict(config), "dataset": data.digest}
    settings["mean and spread"] = {
        score: {
            field: mean_and_spread([each for each in outcomes if each.score == score], field)
            for field in COLUMNS
        }
        for score in SCORES
    }
    (asked.out / "novelty.json").write_text(
        json.dumps(settings | {"outcomes": [asdict(each) for each in outcomes]}, indent=1),
        encoding="utf-8",
    )
    Console().print(Markdown(report))


if __name__ == "__main__":
    main()
