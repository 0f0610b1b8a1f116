"""Method: the interface of a federated class-incremental learning method.

A method has a local half, which runs in each twin, and a server half. It is one frozen dataclass
in one file of ``federation.methods`` that opens with its paper; its fields are its
hyper-parameters. A method never extends another method: what two share is a function in
``twin.losses`` or ``federation.aggregation``. The hooks here are the defaults.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from federation.aggregation.means import Arrived, Mean, mean_of_arrived
from federation.seeding import seed_for
from federation.server import ServerState
from incremental.network import IncrementalNetwork
from incremental.proxy import Score, StoredModel
from twin.batches import TrainingBatch
from twin.messages import Broadcast, Observation, TwinUpdate
from twin.objective import LocalContext, Terms, UploadAndKept
from twin.privacy.upload_policy import UploadKinds

Classifier = Callable[[Tensor], Tensor]  # 8-bit images [N, C, H, W] -> rows of the head [N]


class Method(ABC):
    """A federated class-incremental method.

    Attributes:
        uploads: What leaves a hospital besides weights, number of images and loss means, in words;
            shown by ``fedka methods``.
    """

    uploads: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return the named terms of one batch's loss; their sum is minimised."""

    def finish_local(self, network: IncrementalNetwork, context: LocalContext) -> UploadAndKept:
        """Return what a twin uploads besides its weights, and what it keeps for its next round."""
        return {}, context.kept

    def broadcast(
        self, server: ServerState, old_model: StoredModel | None, twin_id: str
    ) -> Broadcast:
        """Return the message for one twin that shall train."""
        return Broadcast(
            weights=server.weights,
            class_names=server.class_names,
            round=server.round,
            rounds_since_task_began=server.rounds_since_task_began,
            seed=seed_for(server.seed, "train", server.round, twin_id),
            old_model=old_model if self.teaches else None,
        )

    def merge(self, own: ServerState, arrived: Sequence[Arrived]) -> ServerState:
        """Return a state into which updates are merged: by default the mean of their models.

        Head rows are matched by class name. In a synchronous round the state is the server's and
        the updates are those of the round; a peer of a gossip merges its neighbours' the same way.

        Args:
            own: What the receiver has.
            arrived: At least one update.
        """
        return replace(own, weights=self.merged_weights(own, arrived))

    def merged_weights(self, own: ServerState, arrived: Sequence[Arrived]) -> dict[str, Tensor]:
        """Return the mean of the models that arrived, counted as ``mean`` says."""
        return mean_of_arrived(own.weights, own.class_names, arrived, self.mean)

    def aggregate(self, server: ServerState, updates: Sequence[TwinUpdate]) -> ServerState:
        """Return the server after a synchronous round: ``merge`` with fresh, equal updates."""
        return self.merge(server, [Arrived(each) for each in updates])

    def score(self, server: ServerState, observations: Sequence[Observation]) -> Score | None:
        """Return how good the global model is; none where nothing was measured.

        By default it is the accuracy on the images that twins hold back.
        """
        total = sum(each.num_held_back for each in observations)
        if not total:
            return None
        accuracy = sum(each.num_correct for each in observations) / total
        return Score(accuracy, f"held-back images of task {server.task}")

    @property
    def mean(self) -> Mean:
        """How twins count in the mean of their models."""
        return "by_images"

    @property
    def replays(self) -> bool:
        """Whether twins train on their exemplars beside the current task."""
        return True

    @property
    def teaches(self) -> bool:
        """Whether twins are sent the old model."""
        return False

    @property
    def upload_kinds(self) -> UploadKinds:
        """The kind of each tensor that ``finish_local`` uploads: a hospital may forbid kinds."""
        return UploadKinds()

    @property
    def sums(self) -> Mean | None:
        """How twins count, where the server needs the mean alone and it may be summed under masks.

        None where the server reads single updates. By default it does where twins upload something
        besides weights; a method whose ``merge`` compares weights must say so here itself.
        """
        return None if self.upload_kinds.all() else self.mean

    @property
    def per_sample_loss(self) -> bool:
        """Whether each loss term is a mean over images of a function of that image's outputs.

        DP-SGD needs that.
        """
        return False


@runtime_checkable
class SecondClassifier(Protocol):
    """A method that classifies in a second way beside the head; both are measured."""

    @property
    def second_classifier(self) -> str:
        """Its name in results."""
        ...

    def classify(self, server: ServerState) -> Classifier | None:
        """Return the second classifier; none while the server lacks what it needs."""
        ...


@runtime_checkable
class NeedsExactWeights(Protocol):
    """A method whose twins keep sums of their own weights that the server computes as well.

    So weights may not be changed on their way: no compression, no noise, no robust rule.
    """

    needs_exact_weights: ClassVar[bool]
