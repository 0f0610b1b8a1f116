"""FedNTD: not-true distillation of the global model's logits for the classes an image is not of.

Source: Lee et al., Preservation of the Global Knowledge by Not-True Distillation in Federated
Learning, NeurIPS 2022, arXiv:2106.03097, eq. 3 and 4, algorithm 1. The teacher is the global model
as received, frozen and in evaluation mode. Rows that were added in this round take part: the global
model does not know them yet, and every twin holds on to the same random opinion of them. Reduces to
FedAvg, bit for bit, at ``distillation_weight: 0``.
"""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from federation.methods.averaging import AveragingMethod
from incremental.network import IncrementalNetwork, build_network, freeze
from twin import losses
from twin.batches import TrainingBatch
from twin.objective import LocalContext, Terms


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FedNTD(AveragingMethod):
    """FedNTD.

    Args:
        distillation_weight: beta, weight of the not-true distillation.
        temperature: tau of both softmaxes; the term is multiplied by its square.
    """

    per_sample_loss = True
    distillation_weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.distillation_weight >= 0:
            raise ValueError(
                f"distillation_weight is {self.distillation_weight}; allowed: 0 or more (0 is "
                "FedAvg)"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; allowed: above 0")

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return cross-entropy and the not-true distillation."""
        logits = network(batch.images).logits
        terms = {"classification": losses.plain_classification(logits, batch.rows, self.head_loss)}
        if self.distillation_weight:
            global_logits = context.logits_of(
                "global model",
                lambda: freeze(build_network(network.config, context.global_weights)),
                batch,
            )
            distillation = losses.not_true_distillation(
                logits, global_logits, batch.rows, self.temperature
            )
            terms["distillation"] = self.distillation_weight * distillation
        return terms
