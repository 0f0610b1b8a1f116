"""The rounds of a class addition: train from the champion to the candidate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal

import numpy as np
import pydantic.dataclasses
import torch
from pydantic import BeforeValidator, ConfigDict

from federation.class_addition.image_plan import AdditionError, ImageLimits, ImagePlan
from federation.class_addition.mirrored_hospitals import open_hospitals, read_images
from federation.engines.sequential import SequentialEngine
from federation.experiment.evaluation import Evaluation, Evaluator
from federation.experiment.run_folder import code_version
from federation.methods.fedka import FedKA
from federation.round import RoundConfig, RoundRecord, run_round
from federation.server import ServerState, new_server
from incremental.detection import DetectionConfig
from incremental.model_file import Fact, load_model, save_model
from incremental.network import NetworkConfig, weights_of
from incremental.proxy import ProxyConfig, ProxyServer, StoredModel
from physical.batch import Batch
from physical.transforms import AugmentationConfig
from twin.config import TwinConfig, TwinSetting
from twin.local_training import TrainingConfig
from twin.privacy.accounting import EPSILON

ReportProgress = Callable[[str, int, int, str, Mapping[str, Any]], None]

_NETWORK = NetworkConfig(backbone="resnet10", width=16, image_size=28, channels=1)
_TRAINING = TrainingConfig(
    epochs=2,
    batch_size=32,
    learning_rate=0.05,
    momentum=0.9,
    augmentation=AugmentationConfig(crop_padding_pixels=2, horizontal_flip=False, brightness=0.1),
)
_METHOD = FedKA(head_loss="ce", mean="by_images", reconstruction=None)


def _fill_in(defaults: Any) -> BeforeValidator:
    """Fill in the values that a job leaves out from our defaults, not from the class's.

    A job that changes only the learning rate keeps the momentum that belongs to ours.
    """
    values = {each.name: getattr(defaults, each.name) for each in fields(defaults)}
    return BeforeValidator(
        lambda given: {**values, **given} if isinstance(given, Mapping) else given
    )


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AdditionConfig:
    """Settings of a class addition.

    Args:
        rounds: Rounds of the federation.
        images_per_class: Most training images of one class in one hospital; bounds time and memory.
        held_out_fraction: Share of images that is never trained on, in (0, 0.5].
        held_out_per_class: Most held-out images of one class in one hospital that are measured on.
        held_out_by: ``image``, or ``patient``: all images of a patient are held out or none (for
            classes with many patients).
        memory_capacity: Most exemplars of known classes in a hospital that learns a new class.
        round_images: Most held-out images on which the model is measured after each round.
        threads: Threads of the processor. They belong to the result, because sums in another order
            differ in the last bit.
        network: Network of a first model; a candidate has its champion's.
        training: Settings of the local optimiser.
        method: Settings of FedKA. Only weights are uploaded unless ``reconstruction`` is set.
    """

    rounds: int = 8
    images_per_class: int = 400
    held_out_fraction: float = 0.2
    held_out_per_class: int = 200
    held_out_by: Literal["image", "patient"] = "image"
    memory_capacity: int = 1000
    round_images: int = 500
    threads: int = 1
    network: Annotated[NetworkConfig, _fill_in(_NETWORK)] = _NETWORK
    training: Annotated[TrainingConfig, _fill_in(_TRAINING)] = _TRAINING
    method: Annotated[FedKA, _fill_in(_METHOD)] = _METHOD

    def __post_init__(self) -> None:
        """Check the ranges."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{each.name} is {value}; allowed: 1 or more")
        if not 0 < self.held_out_fraction <= 0.5:
            raise ValueError(
                f"held_out_fraction is {self.held_out_fraction}; allowed: above 0 to 0.5; "
                "without it nothing can be measured"
            )

    @property
    def limits(self) -> ImageLimits:
        """Bounds on the number of images."""
        return ImageLimits(
            self.images_per_class, self.held_out_fraction, self.held_out_per_class, self.held_out_by
        )


@dataclass(frozen=True)
class AdditionResult:
    """Result of a class addition.

    Args:
        digest: Digest of the candidate's weights.
        class_names: One per row of its head.
        grew: Classes that the candidate knows and the champion does not.
        evaluation: Evaluation on the held-out images of all classes of the candidate.
        seconds: Wall time of the rounds.
    """

    digest: str
    class_names: tuple[str, ...]
    grew: tuple[str, ...]
    evaluation: Evaluation
    seconds: float


def add_classes(
    champion: Path | None,
    plan: ImagePlan,
    config: AdditionConfig,
    out: Path,
    seed: int,
    report: ReportProgress,
) -> AdditionResult:
    """Train a candidate. Equal arguments give equal weights.

    Args:
        champion: Model folder; none: a first model is trained from nothing.
        plan: The images.
        config: The settings.
        out: Model folder of the candidate; appears whole or not at all.
        seed: Seed of everything random.
        report: Called after each round.

    Raises:
        AdditionError: If champion and settings do not fit, or no update of a twin could be used.
        ModelError: If the champion is damaged.
        MirrorError: If an image is no longer in its mirror.
    """
    torch.set_num_threads(config.threads)
    old, server, manifest = _load_champion(champion, config, seed)
    new = tuple(name for name in plan.approved_names() if name not in server.class_names)
    vocabulary = (*server.class_names, *new)
    _check_flip(config, vocabulary)
    detection = DetectionConfig(rule="by_name")
    twin = TwinConfig(config.memory_capacity, detection=detection)
    setting = TwinSetting(twin, server.network, config.training, config.rounds)
    hospitals = open_hospitals(plan, vocabulary, setting)
    engine = SequentialEngine(hospitals, explain=True)
    proxy = ProxyServer(ProxyConfig(teacher="last_global"))
    if old is not None:
        engine.states = hospitals.states(old.class_names)
        proxy.old_model = old  # the champion teaches from the first round, even if no head grows
    evaluator = _make_evaluator(plan, server.class_names, new, server.network)
    last_task = len(evaluator.tasks) - 1
    federation, seconds, num_accepted = RoundConfig(twins_per_round=len(plan.hospitals)), 0.0, 0
    for done in range(1, config.rounds + 1):
        started = perf_counter()
        server, record = run_round(server, engine, config.method, proxy, federation)
        evaluation = evaluator.evaluate(
            server.weights, server.class_names, last_task, config.round_images
        )
        seconds += perf_counter() - started
        num_accepted += len(record.accepted)
        _report_round(report, record, evaluation, done, config.rounds, seconds)
    if not num_accepted:
        reasons = (
            "; ".join(f"{each.twin_id}: {each.reason}" for each in record.rejected)
            or "no hospital had images of a known class"
        )
        raise AdditionError(
            f"no twin's update was usable in {config.rounds} rounds: {reasons}; "
            "needed: at least one; lower training.learning_rate"
        )
    final = evaluator.evaluate(server.weights, server.class_names, last_task)
    facts: dict[str, Fact] = {
        "round": config.rounds,
        "test_accuracy": final.accuracy,
        "macro_f1": final.macro_f1,
        "dataset": "held-out images of the hospitals' mirrors",
        "dataset_digest": plan.digest,
        "champion_digest": manifest.get("digest"),
        "seed": seed,
        "code_version": code_version(),
    }
    digest = save_model(out, server.weights, server.network, server.class_names, facts)
    old_names = () if old is None else old.class_names
    grew = tuple(name for name in server.class_names if name not in old_names)
    return AdditionResult(digest, server.class_names, grew, final, seconds)


def _load_champion(
    champion: Path | None, config: AdditionConfig, seed: int
) -> tuple[StoredModel | None, ServerState, Mapping[str, Any]]:
    """Return the champion, the server that begins with its weights, and its manifest."""
    if champion is None:
        return None, new_server(config.network, seed, settle_rounds=0), {}
    network, manifest = load_model(champion)
    weights, names = weights_of(network), tuple(manifest["class_names"])
    server = ServerState(weights, names, network.config, seed, settle_rounds=0)
    return StoredModel(weights, names, 0, None), server, manifest


def _make_evaluator(
    plan: ImagePlan, known: Sequence[str], new: Sequence[str], network: NetworkConfig
) -> Evaluator:
    """Return an evaluator of the held-out images: known classes first, empty ones left out."""
    vocabulary, side = (*known, *new), network.image_size
    parts = [read_images(each, each.held_out, vocabulary, side) for each in plan.hospitals]
    sides = sorted({each.images.shape[1] for each in parts})
    if len(sides) > 1:
        raise AdditionError(
            f"the mirrors hold images of {sides} pixels, fewer than the {side} of the network; "
            "allowed: mirrors of one size, or of the network's and more; make the mirrors again"
        )
    images = np.concatenate([each.images for each in parts])
    labels = np.concatenate([each.labels for each in parts])
    present = [vocabulary[label] for label in np.unique(labels)]
    tasks = [[name for name in names if name in present] for names in (known, new)]
    batch = Batch(images, labels, vocabulary)
    return Evaluator(batch, [names for names in tasks if names], network)


def _check_flip(config: AdditionConfig, names: Sequence[str]) -> None:
    """Raise an error if images are mirrored although left and right are part of class names."""
    sided = [
        name for name in names if {"left", "right"} & set(name.casefold().replace("-", " ").split())
    ]
    if config.training.augmentation.horizontal_flip and sided:
        raise AdditionError(
            f"training.augmentation.horizontal_flip is true and {', '.join(sided[:3])} has a side: "
            "a mirrored image would carry the wrong name; set it to false"
        )


def _report_round(
    report: ReportProgress,
    record: RoundRecord,
    evaluation: Evaluation,
    done: int,
    rounds: int,
    seconds: float,
) -> None:
    updates = record.accepted
    terms = sorted({name for each in updates for name in each.metrics} - {EPSILON})
    group_names = ("known", "new") if len(evaluation.by_task) > 1 else ("all",)
    by_group = dict(zip(group_names, evaluation.by_task, strict=True))
    text = f"Round {done} of {rounds}: accuracy {evaluation.accuracy:.3f}"
    if len(by_group) > 1:
        text += f" ({', '.join(f'{name} {value:.3f}' for name, value in by_group.items())})"
    facts = {
        "losses": {
            name: float(np.mean([each.metrics.get(name, 0.0) for each in updates]))
            for name in terms
        },
        "accuracy": evaluation.accuracy,
        "macro_f1": evaluation.macro_f1,
        "by_group": by_group,
        "grew": list(record.grew),
        "images_trained": {each.twin_id: each.num_images for each in updates},
        "rejected": [{"hospital": each.twin_id, "reason": each.reason} for each in record.rejected],
        "seconds": round(seconds, 3),
        "eta_seconds": round(seconds / done * (rounds - done), 1),
    }
    report("round", done, rounds, text, facts)
