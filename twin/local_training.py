"""Local training of a twin: configuration, learning rate schedule and the optimiser loop."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Literal

import pydantic.dataclasses
import torch
from jaxtyping import Int, UInt8
from pydantic import ConfigDict, Field
from torch import Tensor

from incremental.network import IncrementalNetwork
from physical.transforms import AugmentationConfig
from twin.batches import Batches, TrainingBatch
from twin.objective import LocalContext, LocalObjective, Terms
from twin.privacy.private_training import PrivateTraining, private_steps

Precision = Literal["float32", "bfloat16"]
Schedule = Literal["as_coded", "as_intended", "constant"]


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TrainingConfig:
    """Local training in one round, by plain SGD whose state ends with the round.

    Args:
        epochs: Passes over the local images (FedKA's "5 local SGD").
        batch_size: Images of a step; the last, smaller batch is kept.
        learning_rate: Of the first epoch of a task; 2 is right for head loss ``bce``, whose
            gradient per logit is divided by C.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        schedule: ``as_intended``: the full rate for the first half of the task's epochs, a fifth up
            to 3/4, a 25th up to 9/10, then a 125th; ``as_coded``: as LGA's public code does;
            ``constant``.
        gradient_clip: Largest norm of a step's gradient; none: no limit.
        precision: ``bfloat16``: autocast with float32 weights; ``float32``: the reference.
        augmentation: How images are augmented.
        private: DP-SGD in place of SGD; none: plain SGD.
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 2.0
    momentum: float = 0.0
    weight_decay: float = 1e-5
    schedule: Schedule = "as_intended"
    gradient_clip: float | None = 10.0
    precision: Precision = "float32"
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    private: PrivateTraining | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; allowed: above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; allowed: 0 to below 1")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ValueError(f"gradient_clip is {self.gradient_clip}; allowed: above 0, or none")
        if self.private is not None and self.precision != "float32":
            raise ValueError(
                f"precision is {self.precision!r} and training is private: a norm in half "
                "precision is too rough to clip by; set precision to float32"
            )

    def steps_per_epoch(self, num_images: int) -> int:
        """Return the number of batches of an epoch."""
        return ceil(num_images / self.batch_size)


@dataclass(frozen=True)
class LocalResult:
    """Measurements of a local training.

    Args:
        metrics: Mean over the steps of each loss term, of their sum (``total``) and of the gradient
            norm before clipping; empty where training is private.
        num_steps: Optimiser steps.
    """

    metrics: dict[str, float]
    num_steps: int


def learning_rate(
    config: TrainingConfig, round_of_task: int, epoch: int, rounds_per_task: int
) -> float:
    """Return the learning rate of an epoch.

    Args:
        config: Rate and schedule.
        round_of_task: Rounds since the task began.
        epoch: Epoch within the round.
        rounds_per_task: Length of a task.
    """
    if config.schedule == "as_intended":
        share = (round_of_task + epoch / config.epochs) / rounds_per_task
        divisor = 1 if share < 0.5 else 5 if share < 0.75 else 25 if share < 0.9 else 125
        return config.learning_rate / divisor
    if config.schedule == "as_coded":
        # LGA starts each round at the full rate and lowers it only at hard-coded epoch indices.
        rate = config.learning_rate
        for index in range(epoch + 1):
            rate = {100: rate / 5, 150: rate / 25, 180: rate / 125}.get(
                (index + round_of_task * 20) % 200, rate
            )
        return rate
    return config.learning_rate


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return a context in which networks run in this precision; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def train_locally(
    network: IncrementalNetwork,
    images: UInt8[Tensor, "N C H W"],
    rows: Int[Tensor, " N"],
    objective: LocalObjective,
    context: LocalContext,
    config: TrainingConfig,
    rates: Sequence[float],
    generator: torch.Generator,
) -> LocalResult:
    """Train a network in place on one twin's images.

    Args:
        network: Changed in place.
        images: 8-bit pixels, on the network's device.
        rows: Class of each as a row of the head.
        objective: Computes the loss.
        context: Passed to the objective.
        config: Batches, momentum, precision, augmentation.
        rates: Learning rate of each epoch, shape [epochs].
        generator: Draws order and augmentation.
    """
    network.train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=rates[0],
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )

    batches = Batches(images, rows, config.batch_size, config.augmentation, generator)

    def terms_of(batch: TrainingBatch) -> Terms:
        with autocast(config.precision, images.device):
            return objective.local_loss(network, batch, context)

    sums: dict[str, Tensor] = {}
    with _steps(network, optimiser, terms_of, batches, len(images), config, generator) as epoch:
        for rate in rates:
            optimiser.param_groups[0]["lr"] = rate
            for measured in epoch():
                for name, value in measured.items():
                    sums[name] = sums.get(name, torch.zeros(())) + value.detach()
    num_steps = config.steps_per_epoch(len(images)) * len(rates)
    return LocalResult({name: float(value) / num_steps for name, value in sums.items()}, num_steps)


@contextmanager
def _steps(
    network: IncrementalNetwork,
    optimiser: torch.optim.Optimizer,
    terms_of: Callable[[TrainingBatch], Terms],
    batches: Batches,
    num_images: int,
    config: TrainingConfig,
    generator: torch.Generator,
) -> Iterator[Callable[[], Iterator[Terms]]]:
    """Yield a function that runs one epoch and returns the measurements of each step."""
    if config.private is not None:
        sizes = (num_images, config.batch_size, config.gradient_clip)
        with private_steps(
            network,
            optimiser,
            lambda chosen: terms_of(batches.at(chosen)),
            *sizes,
            config.private,
            generator,
        ) as private:
            yield lambda: map(private.step, private.draw())
        return

    parameters = list(network.parameters())

    def step(batch: TrainingBatch) -> Terms:
        terms = terms_of(batch)
        total = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]  # the library is untyped
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip or torch.inf)
        optimiser.step()
        return {**terms, "total": total, "gradient_norm": norm}

    yield lambda: map(step, batches.epoch())
