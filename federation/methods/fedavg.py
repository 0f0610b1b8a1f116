"""FedAvg: twins train on cross-entropy, the server averages; no teacher, memory only if asked for.

Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,
AISTATS 2017, algorithm 1.
"""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from federation.methods.averaging import AveragingMethod
from incremental.network import IncrementalNetwork
from twin import losses
from twin.batches import TrainingBatch
from twin.objective import LocalContext, Terms


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FedAvg(AveragingMethod):
    """FedAvg: the fields of every averaging method, and no other."""

    per_sample_loss = True

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return plain cross-entropy."""
        logits = network(batch.images).logits
        return {"classification": losses.plain_classification(logits, batch.rows, self.head_loss)}
