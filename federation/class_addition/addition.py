"""The rounds of a class addition, from champion to candidate. Knows no job file and no registry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal

import numpy as np
import pydantic.dataclasses
import torch
from pydantic import BeforeValidator, ConfigDict, Field

from federation.class_addition.hospitals import open_hospitals, read_images
from federation.class_addition.images import AdditionError, Limits, Plan
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

Tell = Callable[[dict[str, Any]], None]

# A part of the settings that a job gives is added to these: whoever changes the learning rate keeps the momentum that belongs to it.
_TRAINING = {
    "epochs": 2,
    "batch_size": 32,
    "learning_rate": 0.05,
    "momentum": 0.9,
    "augmentation": AugmentationConfig(2, False, 0.1),
}
_METHOD = {"head_loss": "ce", "mean": "by_images", "reconstruction": None}
_NETWORK = {"backbone": "resnet10", "width": 16, "image_size": 28, "channels": 1}


def _over(defaults: Mapping[str, Any]) -> BeforeValidator:
    return BeforeValidator(
        lambda given: {**defaults, **given} if isinstance(given, Mapping) else given
    )


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AdditionConfig:
    """How classes are added.

    Args:
        rounds: Of the federation.
        images_per_class: Most training images of one class in one hospital: what bounds time and memory.
        held_out_fraction: Share of images that is never trained on.
        held_out_per_class: Most of these that are measured on, of one class in one hospital.
        held_out_by: ``image``; ``patient``: all images of a patient go the same way (where a class has many patients).
        memory_capacity: Most exemplars of known classes of a hospital that learns a new one.
        round_images: Most held-out images on which the model is measured after each round.
        threads: Of the processor; it belongs to the result, as sums in another order differ in the last bit.
        network: Of a first model; a candidate has its champion's.
        training: The local optimiser.
        method: FedKA's weights. Nothing but weights is uploaded unless ``reconstruction`` is set.
    """

    rounds: int = 8
    images_per_class: int = 400
    held_out_fraction: float = 0.2
    held_out_per_class: int = 200
    held_out_by: Literal["image", "patient"] = "image"
    memory_capacity: int = 1000
    round_images: int = 500
    threads: int = 1
    network: Annotated[NetworkConfig, _over(_NETWORK)] = Field(
        default_factory=lambda: NetworkConfig(**_NETWORK)  # type: ignore[arg-type]
    )
    training: Annotated[TrainingConfig, _over(_TRAINING)] = Field(
        default_factory=lambda: TrainingConfig(**_TRAINING)  # type: ignore[arg-type]
    )
    method: Annotated[FedKA, _over(_METHOD)] = Field(default_factory=lambda: FedKA(**_METHOD))  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in (
            "rounds",
            "images_per_class",
            "held_out_per_class",
            "memory_capacity",
            "round_images",
            "threads",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if not 0 < self.held_out_fraction <= 0.5:
            raise ValueError(
                f"held_out_fraction is {self.held_out_fraction}; allowed: above 0 to 0.5; without it nothing can be measured"
            )

    @property
    def limits(self) -> Limits:
        """How many images take part."""
        return Limits(
            self.images_per_class, self.held_out_fraction, self.held_out_per_class, self.held_out_by
        )


@dataclass(frozen=True)
class AdditionResult:
    """What came out.

    Args:
        candidate: Model folder.
        digest: Of its weights.
        class_names: One per row of its head.
        grew: Classes that it knows and the champion does not.
        rounds: Of the federation.
        evaluation: Of the last round's model on the held-out images of all its classes.
        seconds: Wall time of the rounds.
    """

    candidate: Path
    digest: str
    class_names: tuple[str, ...]
    grew: tuple[str, ...]
    rounds: int
    evaluation: Evaluation
    seconds: float


def add_classes(
    champion: Path | None, plan: Plan, config: AdditionConfig, out: Path, seed: int, tell: Tell
) -> AdditionResult:
    """Run a class addition; equal arguments give equal weights.

    Args:
        champion: Model folder; none: a first model is trained from nothing.
        plan: Which images.
        config: How.
        out: Model folder of the candidate; appears whole or not at all.
        seed: Of everything random.
        tell: Told of each round, in plain data.

    Raises:
        AdditionError: If champion and settings do not fit, or no twin's update could be used.
        ModelError: If the champion is damaged.
        MirrorError: If an image is no longer there.
    """
    torch.set_num_threads(config.threads)
    old, server, manifest = _start(champion, config, seed)
    new = tuple(name for name in plan.approved_names() if name not in server.class_names)
    vocabulary = (*server.class_names, *new)
    _check_flip(config, vocabulary)
    twin = TwinConfig(config.memory_capacity, detection=DetectionConfig(rule="by_name"))
    hospitals = open_hospitals(
        plan, vocabulary, TwinSetting(twin, server.network, config.training, config.rounds)
    )
    engine, proxy = (
        SequentialEngine(hospitals, explain=True),
        ProxyServer(ProxyConfig(teacher="last_global")),
    )
    if old is not None:
        engine.states = hospitals.states(old.class_names)
        proxy.old_model = (
            old  # the champion teaches from the first round on, also where no head grows
        )
    evaluator = _evaluator(plan, server.class_names, new, server.network)
    federation, spent, accepted = RoundConfig(twins_per_round=len(plan.hospitals)), 0.0, 0
    for number in range(config.rounds):
        started = perf_counter()
        server, record = run_round(server, engine, config.method, proxy, federation)
        evaluation = evaluator.evaluate(
            server.weights, server.class_names, len(evaluator.tasks) - 1, config.round_images
        )
        spent += perf_counter() - started
        accepted += len(record.accepted)
        tell(_line(record, evaluation, number + 1, config.rounds, spent))
    if not accepted:
        raise AdditionError(
            f"no twin's update was usable in {config.rounds} rounds: {_reasons(record)}; needed: one at least; lower training.learning_rate"
        )
    final = evaluator.evaluate(server.weights, server.class_names, len(evaluator.tasks) - 1)
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
    grew = tuple(name for name in server.class_names if old is None or name not in old.class_names)
    return AdditionResult(out, digest, server.class_names, grew, config.rounds, final, spent)


def _start(
    champion: Path | None, config: AdditionConfig, seed: int
) -> tuple[StoredModel | None, ServerState, Mapping[str, Any]]:
    if champion is None:
        return None, new_server(config.network, seed, settle_rounds=0), {}
    network, manifest = load_model(champion)
    weights, names = weights_of(network), tuple(manifest["class_names"])
    return (
        StoredModel(weights, names, 0, None),
        ServerState(weights, names, network.config, seed, settle_rounds=0),
        manifest,
    )


def _evaluator(
    plan: Plan, known: Sequence[str], new: Sequence[str], network: NetworkConfig
) -> Evaluator:
    """Return the held-out images, known classes first; a class without any has no part in it."""
    vocabulary = (*known, *new)
    parts = [
        read_images(each, each.held_out, vocabulary, network.image_size) for each in plan.hospitals
    ]
    smallest = min(each.images.shape[1] for each in parts)
    if any(each.images.shape[1] != smallest for each in parts):
        raise AdditionError(
            f"the mirrors hold images of {sorted({each.images.shape[1] for each in parts})} pixels, fewer than the {network.image_size} of "
            "the network; allowed: mirrors of one size, or of the network's and more; make the mirrors again"
        )
    images, labels = (
        np.concatenate([each.images for each in parts]),
        np.concatenate([each.labels for each in parts]),
    )
    present = [vocabulary[label] for label in np.unique(labels)]
    tasks = [[name for name in names if name in present] for names in (known, new)]
    return Evaluator(
        Batch(images, labels, vocabulary), [names for names in tasks if names], network
    )


def _check_flip(config: AdditionConfig, names: Sequence[str]) -> None:
    sided = [
        name for name in names if {"left", "right"} & set(name.casefold().replace("-", " ").split())
    ]
    if config.training.augmentation.horizontal_flip and sided:
        raise AdditionError(
            f"training.augmentation.horizontal_flip is true and {', '.join(sided[:3])} has a side: a mirrored image would carry the wrong "
            "name; set it to false"
        )


def _line(
    record: RoundRecord, evaluation: Evaluation, done: int, rounds: int, spent: float
) -> dict[str, Any]:
    """Return what happened in a round as plain data."""
    updates = record.accepted
    terms = sorted({name for each in updates for name in each.metrics} - {EPSILON})
    known_and_new = dict(
        zip(
            ("known", "new") if len(evaluation.by_task) > 1 else ("all",),
            evaluation.by_task,
            strict=True,
        )
    )
    parts = ", ".join(
        f"{name} {value:.3f}" for name, value in known_and_new.items() if name != "all"
    )
    return {
        "step": "round",
        "done": done,
        "of": rounds,
        "text": f"Round {done} of {rounds}: accuracy {evaluation.accuracy:.3f}{f' ({parts})' if parts else ''}",
        "losses": {
            name: float(np.mean([each.metrics.get(name, 0.0) for each in updates]))
            for name in terms
        },
        "accuracy": evaluation.accuracy,
        "macro_f1": evaluation.macro_f1,
        "by_group": known_and_new,
        "grew": list(record.grew),
        "images_trained": {each.twin_id: each.num_images for each in updates},
        "rejected": [{"hospital": each.twin_id, "reason": each.reason} for each in record.rejected],
        "seconds": round(spent, 3),
        "eta_seconds": round(spent / done * (rounds - done), 1),
    }


def _reasons(record: RoundRecord) -> str:
    return (
        "; ".join(f"{each.twin_id}: {each.reason}" for each in record.rejected)
        or "nobody had images of a known class"
    )
