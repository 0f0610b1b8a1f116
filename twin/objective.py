"""Interface between twin and method: a method's local half, and the context it may use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from incremental.head import Weights
from incremental.network import IncrementalNetwork
from twin.batches import TeacherFunction, TeacherOutputs, TrainingBatch

Value = TypeVar("Value")
UploadAndKept = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]
Terms = dict[str, Tensor]  # scalar terms of a loss; their sum is minimised, each is reported


@dataclass(frozen=True)
class LocalContext:
    """What a method's local half may use while a twin trains, pixels included.

    Args:
        num_rows: Classes of the head, C.
        groups: Rows of each of the twin's finished tasks, oldest first, and of the current one last
            (empty where it has none).
        global_weights: The model as received.
        old_network: The frozen teacher; none if there is none.
        old_rows: Classes of the teacher, C_old; they are the first rows of the head.
        extras: What the method's server half sent.
        kept: What the method's local half kept on this twin in an earlier round.
        fresh_task: Whether the twin detected new classes and has not trained since.
        generator: Source of the method's randomness.
        prototypes: Returns, for a network, one representative image of each current class and its
            row: ([P, C, H, W] in [0, 1], [P]).
        num_steps: Optimiser steps of this round.
        learning_rates: Learning rate of each epoch.
        momentum: Momentum of the local optimiser.
        held_out: Returns the images that the method keeps out of training, as ``images`` does.
        images: Returns this round's training images without augmentation and their rows: ([N, C, H,
            W] in [0, 1], [N]).
    """

    num_rows: int
    groups: tuple[tuple[int, ...], ...]
    global_weights: Weights
    old_network: IncrementalNetwork | None = None
    old_rows: int = 0
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    fresh_task: bool = False
    generator: torch.Generator = field(default_factory=torch.Generator)
    prototypes: Callable[[IncrementalNetwork], tuple[Tensor, Tensor]] | None = None
    num_steps: int = 0
    learning_rates: tuple[float, ...] = ()
    momentum: float = 0.0
    held_out: Callable[[], tuple[Tensor, Tensor]] | None = None
    images: Callable[[], tuple[Tensor, Tensor]] | None = None
    _cache: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def cached(self, name: str, make: Callable[[], Value]) -> Value:
        """Return what ``make`` returns; called once for each name and kept until the round ends."""
        if name not in self._cache:
            self._cache[name] = make()
        return cast(Value, self._cache[name])

    def teacher_outputs(
        self, name: str, compute: TeacherFunction, batch: TrainingBatch
    ) -> TeacherOutputs:
        """Return a frozen network's outputs for a batch, without gradients.

        Args:
            name: Key under which the outputs of each augmented image are cached.
            compute: Runs the network.
            batch: The images.
        """
        with torch.no_grad():
            return batch.teacher_outputs(name, compute)

    def old_logits(self, batch: TrainingBatch) -> Float[Tensor, "B C_old"]:
        """Return the logits of the old model, which must be there."""
        teacher = self.old_network
        assert teacher is not None
        return self.logits_of("old model", lambda: teacher, batch)

    def logits_of(
        self, name: str, make: Callable[[], IncrementalNetwork], batch: TrainingBatch
    ) -> Float[Tensor, "B C_known"]:
        """Return the logits of a teacher, with the caching of ``teacher_outputs``.

        Args:
            name: Key of the teacher.
            make: Returns the frozen teacher; called once in a round.
            batch: The images.
        """
        teacher = self.cached(name, make)
        return self.teacher_outputs(
            f"logits of the {name}", lambda images, rows: (teacher(images).logits,), batch
        )[0]

    @property
    def num_finished(self) -> int:
        """Classes of the twin's finished tasks, C_o in the paper."""
        return sum(len(rows) for rows in self.groups[:-1])

    @property
    def num_current(self) -> int:
        """Classes of the twin's current task, C_t in the paper."""
        return len(self.groups[-1]) if self.groups else 0

    def group_of_rows(self) -> Int[Tensor, " C"]:
        """Return the index of each row's group; -1 for classes that this twin never saw."""
        group = torch.full((self.num_rows,), -1)
        for index, rows in enumerate(self.groups):
            group[list(rows)] = index
        return group


@runtime_checkable
class LocalObjective(Protocol):
    """Local half of a method: the loss of a batch, and what leaves or stays after training."""

    @property
    def replays(self) -> bool:
        """Whether exemplars are trained on besides the current task."""
        ...

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return the terms of the loss of one batch."""
        ...

    def finish_local(self, network: IncrementalNetwork, context: LocalContext) -> UploadAndKept:
        """Return what to upload besides the weights, and what to keep on the twin, by name."""
        ...


@runtime_checkable
class HoldsOut(Protocol):
    """A method that fits something to images which a twin keeps out of training."""

    @property
    def held_out_fraction(self) -> float:
        """Share of each class, 0 to 0.5, to keep out of training once there is a teacher."""
        ...
