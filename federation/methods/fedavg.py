"""FedAvg: twins train on cross-entropy, the server averages. Forgets: it has no teacher, and no memory unless asked for.

Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017, algorithm 1.
"""

from collections.abc import Sequence
from dataclasses import replace

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from federation.aggregation.means import Mean, mean_of_updates
from federation.method import Method
from federation.server import ServerState
from incremental.network import IncrementalNetwork
from twin import losses
from twin.batches import TrainingBatch
from twin.messages import TwinUpdate
from twin.objective import LocalContext, Terms


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FedAvg(Method):
    """FedAvg.

    Args:
        head_loss: ``ce``: softmax cross-entropy; ``bce``: binary cross-entropy over the classes.
        memory: Train on exemplars of finished tasks as well (a common stronger form: FedAvg with replay).
        mean: ``by_images`` (the paper) or ``equal`` (every twin counts the same).
    """

    head_loss: losses.HeadLoss = "ce"
    memory: bool = False
    mean: Mean = "by_images"

    @property
    def sums(self) -> Mean | None:
        """How twins count in the mean, which is all that the server makes of their updates."""
        return self.mean

    @property
    def replays(self) -> bool:
        """Whether exemplars are trained on."""
        return self.memory

    @property
    def per_sample_loss(self) -> bool:
        """Whether the loss is a mean over images: it is."""
        return True

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return plain cross-entropy."""
        logits = network(batch.images).logits
        return {"classification": losses.plain_classification(logits, batch.rows, self.head_loss)}

    def aggregate(self, server: ServerState, updates: Sequence[TwinUpdate]) -> ServerState:
        """Return the server with the mean of the local models."""
        return replace(server, weights=mean_of_updates(updates, self.mean))
