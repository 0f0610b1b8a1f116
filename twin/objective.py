"""Interface between twin and method: what a method's local half provides and may see."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from incremental.head import Weights
from incremental.network import IncrementalNetwork
from twin.batches import Answers, Ask, TrainingBatch

Made = TypeVar("Made")
Finished = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]  # what to upload, what to keep
Terms = dict[str, Tensor]  # named scalar terms of a loss; their sum is minimised, each is reported


@dataclass(frozen=True)
class LocalContext:
    """What a method may see while a twin trains.

    Pixels can be asked for: a method's local half runs inside the hospital.

    Args:
        num_rows: Classes of the head, C.
        groups: Rows of each of the twin's finished tasks, oldest first, and of the current one last
            (empty where it has none).
        global_weights: The model as received.
        old_network: The frozen teacher; none without one.
        old_rows: Classes the teacher knows, C_old; they are the first rows of the head.
        extras: What the method's server half sent.
        kept: What the method's local half kept on this twin after an earlier round.
        fresh_task: The twin detected new classes and has not trained since.
        generator: Source of the method's randomness.
        prototypes: Returns, for a network, one representative image of each current class and its
            row: ([P, C, H, W] in [0, 1], [P]).
        num_steps: Optimiser steps of this round.
        learning_rates: Learning rate of each epoch.
        momentum: Of the local optimiser.
        held_out: Returns, in the same form as ``images``, what the method asked to keep out of
            training.
        images: Returns all that this round trains on, as it is, and the rows of the head: ([N, C,
            H, W] in [0, 1], [N]).
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
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """Return what ``make`` returns, made when first asked for and kept till the round's end.

        A frozen teacher, a sum of large tensors.

        Args:
            name: Of the thing; whoever asks again by this name gets the same one.
            make: Called at most once for each name.
        """
        if name not in self._made:
            self._made[name] = make()
        return cast(Made, self._made[name])

    def ask_teacher(self, name: str, ask: Ask, batch: TrainingBatch) -> Answers:
        """Return what a frozen network says of a batch, without gradients.

        Once for each image as it is varied.

        Args:
            name: Of what is asked; who asks again by this name gets the same answers.
            ask: Asks it.
            batch: The images.
        """
        with torch.no_grad():
            return batch.ask(name, ask)

    def old_logits(self, batch: TrainingBatch) -> Float[Tensor, "B C_old"]:
        """Return the logits of the old model; only where there is one."""
        teacher = self.old_network
        assert teacher is not None
        return self.logits_of("old model", lambda: teacher, batch)

    def logits_of(
        self, name: str, make: Callable[[], IncrementalNetwork], batch: TrainingBatch
    ) -> Float[Tensor, "B C_known"]:
        """Return the logits of a teacher, as ``ask_teacher`` asks it.

        Args:
            name: Of the teacher; who asks again by this name gets the same one.
            make: Returns it, frozen; called once in a round.
            batch: The images.
        """
        teacher = self.once(name, make)
        return self.ask_teacher(
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
        """Return the task group of each row of the head.

        -1 for classes that this twin never saw.
        """
        group = torch.full((self.num_rows,), -1)
        for index, rows in enumerate(self.groups):
            group[list(rows)] = index
        return group


@runtime_checkable
class LocalObjective(Protocol):
    """The local half of a method."""

    @property
    def replays(self) -> bool:
        """Exemplars are trained on beside the current task."""
        ...

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return the terms of the loss of one batch."""
        ...

    def finish_local(self, network: IncrementalNetwork, context: LocalContext) -> Finished:
        """Return what to upload besides the weights, and what to keep on the twin."""
        ...


@runtime_checkable
class HoldsOut(Protocol):
    """A method that fits something to images which a twin keeps out of training."""

    @property
    def held_out_fraction(self) -> float:
        """Share of each class's images, 0 to 0.5, kept out of training once there is a teacher."""
        ...
