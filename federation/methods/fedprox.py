"""FedProx: FedAvg whose local loss pulls the weights back to the global model.

Source: Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, arXiv:1812.06127,
algorithm 2 and eq. 2. The norm is squared and goes over the parameters; statistics of batch
normalisation are no parameters. Twins are drawn and counted as in FedAvg here. Reduces to FedAvg,
bit for bit, at ``mu: 0``.
"""

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from federation.methods.averaging import AveragingMethod
from incremental.network import IncrementalNetwork
from twin import losses
from twin.batches import TrainingBatch
from twin.objective import LocalContext, Terms


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FedProx(AveragingMethod):
    """FedProx.

    Args:
        mu: Weight of the proximal term; the paper tries 0.001 to 1.
    """

    mu: float = 0.01

    def __post_init__(self) -> None:
        """Check the range."""
        if not self.mu >= 0:
            raise ValueError(f"mu is {self.mu}; allowed: 0 or more (0 is FedAvg)")

    @property
    def per_sample_loss(self) -> bool:
        """Whether the loss is a mean over images: the proximal term looks at weights."""
        return not self.mu

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return cross-entropy and ``mu / 2 * squared distance`` from the global model."""
        logits = network(batch.images).logits
        terms = {"classification": losses.plain_classification(logits, batch.rows, self.head_loss)}
        if self.mu:
            parameters: dict[str, Tensor] = dict(network.named_parameters())
            terms["proximal"] = (
                self.mu / 2 * losses.squared_distance(parameters, context.global_weights)
            )
        return terms
