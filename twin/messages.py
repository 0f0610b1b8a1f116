"""Messages between server and twins: models down; numbers, class names and weights up.

No message holds images. A method declares what it uploads besides weights as ``uploads``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from incremental.head import Weights
from incremental.proxy import StoredModel
from twin.compression import PackedWeights


@dataclass(frozen=True)
class GlobalModel:
    """The global model, sent to twins at the start of a round to check their arrivals with.

    Args:
        weights: Weights of the global model.
        class_names: One per row of its head.
        round: Number of the round.
        usual_entropy: Quantiles of the entropies of known images over the federation [nats], shape
            [19]; none if no twin has reported any.
        usual_images: Number of images behind ``usual_entropy``.
        task: Number of the federation's open task, from 1; 0 before the first class.
        task_of_new_classes: Task of the classes that are announced in this round: the open task
            in its first rounds, else the next.
    """

    weights: Weights
    class_names: tuple[str, ...]
    round: int
    usual_entropy: tuple[float, ...] | None = None
    usual_images: int = 0
    task: int = 0
    task_of_new_classes: int = 1


@dataclass(frozen=True)
class Observation:
    """What a twin reports about its images before training.

    Args:
        twin_id: Sender.
        round: Number of the round.
        num_new_images: Images that arrived since the twin's last observation.
        signal: Whether the detection rule fired.
        new_class_names: Names that the twin asks the federation to add; empty without a signal.
        entropy: Mean entropy as a fraction of ln C, in [0, 1]; none without images or with C < 2.
        statistic: What the rule compared with the threshold; none without anything to compare.
        threshold: The rule's threshold.
        num_trainable: Images of the current task; a twin with 0 is not asked to train.
        num_held_back: Images of known classes that are never trained on.
        num_correct: How many of these the model classified rightly.
        usual_entropy: Quantiles of their entropies [nats], shape [19]; none if they are so few that
            the quantiles would show single images.
        watched: Whether each watched rule fired.
    """

    twin_id: str
    round: int
    num_new_images: int
    signal: bool
    new_class_names: tuple[str, ...] = ()
    entropy: float | None = None
    statistic: float | None = None
    threshold: float = 0.0
    num_trainable: int = 0
    num_held_back: int = 0
    num_correct: int = 0
    usual_entropy: tuple[float, ...] | None = None
    watched: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Broadcast:
    """What the server sends to a twin that shall train.

    Args:
        weights: The global model, its head grown.
        class_names: One per row of the head.
        round: Number of the round.
        rounds_since_task_began: Sets the learning rate.
        seed: Seed of this twin's training in this round.
        old_model: The teacher; none in the first task, or if the method needs none.
        extras: What the method sends besides, by name.
    """

    weights: Weights
    class_names: tuple[str, ...]
    round: int
    rounds_since_task_began: int
    seed: int
    old_model: StoredModel | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TwinUpdate:
    """What a twin sends after training.

    Args:
        twin_id: Sender.
        round: Number of the round.
        weights: The local model; if it was compressed, after unpacking.
        num_images: Images it was trained on; its weight in a weighted mean.
        class_names: Class of each row of the head, as in the broadcast.
        upload: What the method sends besides, by name (declared in ``Method.uploads``).
        metrics: Mean of each loss term over the steps, gradient norm and other numbers.
        packed: The compressed weights, as they travel; none without compression.
        summed: Twins whose mean this is, after secure aggregation; empty for a single twin.
    """

    twin_id: str
    round: int
    weights: Weights
    num_images: int
    class_names: tuple[str, ...] = field(kw_only=True)
    upload: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    packed: PackedWeights | None = None
    summed: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Size in transfer [bytes]; of a sum, one vector of 64-bit integers for each twin."""
        if self.summed:
            return len(self.summed) * 8 * sum(value.numel() for value in self.weights.values())
        return num_bytes(self.weights if self.packed is None else self.packed.tensors, self.upload)


def num_bytes(*tensors: Mapping[str, Tensor]) -> int:
    """Return the size of tensors in transfer [bytes]."""
    return sum(
        value.numel() * value.element_size() for group in tensors for value in group.values()
    )
