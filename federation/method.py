"""What a method is: a local half that runs in each twin and a server half. Knows no particular method.

A method is one frozen dataclass in one file that opens with its paper; its fields are its hyper-parameters. The hooks here are the
defaults;
a method never extends another method: what two share is a function in ``twin.losses`` or ``federation.aggregation.means``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from federation.aggregation.means import Mean, weighted_mean
from federation.seeding import seed_for
from federation.server import ServerState
from incremental.network import IncrementalNetwork
from incremental.proxy import Score, StoredModel
from twin.batches import TrainingBatch
from twin.messages import Broadcast, Observation, TwinUpdate
from twin.objective import LocalContext, Terms
from twin.privacy.upload_policy import UploadKinds

Answer = Callable[[Tensor], Tensor]  # 8-bit images [N, C, H, W] -> rows of the head [N]


class Method(ABC):
    """A federated class-incremental method.

    Attributes:
        held_out_fraction: Share of each class's images that twins keep out of training, for a method that fits something to them.
        uploads: What crosses the wall besides weights, number of images and loss means; shown by ``fedka methods``.
        needs_exact_weights: A twin keeps what the server computes again from the weights that arrive, so nothing may be done to them.
        second_answer: Name of the other way by which it classifies, beside the head; none for most. Both are measured.
    """

    uploads: ClassVar[tuple[str, ...]] = ()
    needs_exact_weights: ClassVar[bool] = False
    second_answer: ClassVar[str | None] = None

    @property
    def per_sample_loss(self) -> bool:
        """Each term of the local loss is a mean over images of what the network's outputs for that image alone say: DP-SGD needs that."""
        return False

    @property
    def upload_kinds(self) -> UploadKinds:
        """Of what kind each tensor is that ``finish_local`` uploads: a hospital may forbid kinds."""
        return UploadKinds()

    @property
    def sums(self) -> Mean | None:
        """How twins count, where the aggregate is a mean of their weights and needs no single update: then it can be made in secret."""
        return None

    @property
    def replays(self) -> bool:
        """Twins train on their exemplars beside the current task."""
        return True

    held_out_fraction: ClassVar[float] = 0.0

    @property
    def teaches(self) -> bool:
        """Twins are sent the old model."""
        return False

    @abstractmethod
    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return the named terms of one batch's loss; their sum is minimised."""

    def finish_local(
        self, network: IncrementalNetwork, context: LocalContext
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
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
            rounds_since_growth=server.rounds_since_growth,
            seed=seed_for(server.seed, "train", server.round, twin_id),
            old_model=old_model if self.teaches else None,
        )

    def aggregate(self, server: ServerState, updates: Sequence[TwinUpdate]) -> ServerState:
        """Return the server after a round: by default FedAvg's mean, each twin counted by its images."""
        mean = weighted_mean(
            [each.weights for each in updates], [each.num_images for each in updates]
        )
        return replace(server, weights=mean)

    def score(self, server: ServerState, observations: Sequence[Observation]) -> Score | None:
        """Return how good the global model is: by default the accuracy on images that twins hold back; none where nobody does."""
        total = sum(each.num_held_back for each in observations)
        if not total:
            return None
        accuracy = sum(each.num_correct for each in observations) / total
        return Score(accuracy, f"held-back images of task {len(server.growth_rounds)}")

    def answer_otherwise(self, server: ServerState) -> Answer | None:
        """Return what gives each 8-bit image [N, C, H, W] its row by the ``second_answer``; none where there is none, or not yet."""
        return None
