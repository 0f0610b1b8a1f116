"""Messages that may cross a hospital's wall: models down; numbers, names and weights up.

What a method uploads beyond weights stands in its file as ``uploads``; a test holds the wall.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from incremental.head import Weights
from incremental.proxy import StoredModel
from twin.compression import PackedWeights


@dataclass(frozen=True)
class GlobalModel:
    """Down, to every twin at the start of a round: look at your data with this.

    Args:
        weights: The global model.
        class_names: One per row of its head.
        round: The federation's clock.
        usual_entropy: Quantiles of entropies of known images over the federation [nats], shape
            [19]; none while nobody reported.
        usual_images: Images behind them.
        task: Number of the federation's open task, from 1; 0 before the first class.
        task_of_new_classes: Number of the task of classes that are announced in this round: the
            open task while it is young, else the next.
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
    """Up, from every twin: what is new, and how it looks to the model.

    Args:
        twin_id: Who.
        round: When.
        num_new_images: Images that arrived since the last look.
        signal: The detector fired.
        new_class_names: Names that the twin asks the federation to add; empty without a signal.
        entropy: Mean entropy of what was looked at as a fraction of ln C, in [0, 1]; none where
            there was nothing or C < 2.
        statistic: What the rule compared; none where there was nothing to compare.
        threshold: What it was compared with.
        num_trainable: Images of the task being learned; a twin without any is not asked to train.
        num_held_back: Images of known classes that were never trained on.
        num_correct: How many of them the model named rightly.
        usual_entropy: Quantiles of their entropies [nats], shape [19]; none where there are too few
            to hide one in.
        watched: Whether each rule that is watched but not followed would have fired.
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
    """Down, to a twin that shall train.

    Args:
        weights: The global model, its head grown.
        class_names: One per row of the head.
        round: The federation's clock.
        rounds_since_task_began: Rounds since the open task began; sets the learning rate.
        seed: Seeds all that is random in this twin's training of this round.
        old_model: The teacher; none in the first task or where a method needs none.
        extras: What a method sends besides, by name.
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
    """Up, from a twin that trained.

    Args:
        twin_id: Who.
        round: When.
        weights: Its local model; where it was packed, what unpacking gives.
        num_images: Images it trained on; its weight in a weighted mean.
        class_names: What it took each row of the head for: the broadcast's list.
        upload: What the method sends besides, by name (declared in ``Method.uploads``).
        metrics: Mean of each loss term over the steps, the gradient norm, and what else is a
            number.
        packed: The weights in fewer bytes, as they travel; none where they travel as they are.
        summed: Twins whose mean it is, made by the server's half of secure aggregation; empty for
            the update of one twin.
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
        """Its size on the wire [bytes].

        Of a sum: that of one masked vector of 64-bit integers for each twin.
        """
        if self.summed:
            return len(self.summed) * 8 * sum(value.numel() for value in self.weights.values())
        return num_bytes(self.weights if self.packed is None else self.packed.tensors, self.upload)


def num_bytes(*tensors: Mapping[str, Tensor]) -> int:
    """Return the size of tensors on the wire [bytes]."""
    return sum(
        value.numel() * value.element_size() for group in tensors for value in group.values()
    )
