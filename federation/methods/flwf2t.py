"""FLwF-2T: distillation from two teachers, the twin's own earlier model and the global model.

Source: Usmanova et al., A distillation-based approach integrating continual learning and federated
learning for pervasive services, IJCAI workshop 2021, arXiv:2109.04197: ``alpha L_class + beta L_own
+ (1 - alpha - beta) L_server``; both distillations are learning without forgetting's (Li and Hoiem,
ECCV 2016) at temperature T, without a factor T squared, and as a divergence, so equal models give
0. Also known as FedLwF-2T.

Our reading of what it leaves open: a twin's own teacher is its local model of the last round in
which it trained on the task before, and teaches the classes which that model has; the server's is
the global model as received, frozen, and teaches the classes that were in it when it was last
aggregated (the rows added since are random numbers). The share of a teacher that does not exist is
given to the others in proportion, so the first round of all is plain classification. A twin keeps
two models for it. Reduces to FedAvg, bit for bit, at ``classification_weight: 1`` and ``own_weight:
0``.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import fsum

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from federation.aggregation.means import Arrived
from federation.methods.averaging import AveragingMethod
from federation.server import ServerState
from incremental.head import Weights, num_rows
from incremental.network import IncrementalNetwork, build_network, freeze, weights_of
from incremental.proxy import StoredModel
from incremental.weight_tensors import labelled, with_label
from twin import losses
from twin.batches import TrainingBatch
from twin.messages import Broadcast
from twin.objective import LocalContext, Terms, UploadAndKept


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FLwF2T(AveragingMethod):
    """FLwF-2T.

    Args:
        classification_weight: alpha, share of the classification.
        own_weight: beta, share of the twin's own teacher; what is left to 1 is the server's.
        temperature: T of both distillations (none with ``bce``).
    """

    per_sample_loss = True
    classification_weight: float = 0.5
    own_weight: float = 0.25
    temperature: float = 2.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.classification_weight <= 1:
            raise ValueError(
                f"classification_weight is {self.classification_weight}; allowed: above 0 to 1"
            )
        if not 0 <= self.own_weight <= 1 - self.classification_weight + 1e-9:
            raise ValueError(
                f"own_weight is {self.own_weight}; allowed: 0 to what classification_weight leaves "
                f"to 1, {1 - self.classification_weight:g}"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; allowed: above 0")

    @property
    def server_weight(self) -> float:
        """What alpha and beta leave to 1."""
        rest = 1 - self.classification_weight - self.own_weight
        return rest if rest > 1e-9 else 0.0

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return classification and the distillation of each teacher, by shares that sum to 1."""
        logits = network(batch.images).logits
        fit = losses.plain_classification(logits, batch.rows, self.head_loss)
        terms, shares = {"classification": fit}, {"classification": self.classification_weight}
        own = (
            context.cached("own teacher's weights", lambda: own_teacher(context))
            if self.own_weight
            else {}
        )
        if own:
            known = context.logits_of(
                "own teacher", lambda: freeze(build_network(network.config, own)), batch
            )
            terms["own_distillation"] = self._distil(logits, known)
            shares["own_distillation"] = self.own_weight
        taught = context.cached(
            "taught rows", lambda: int(context.extras.get("taught_rows", torch.tensor(0)))
        )
        if self.server_weight and taught:
            known = context.logits_of(
                "server's teacher",
                lambda: freeze(build_network(network.config, context.global_weights)),
                batch,
            )
            terms["server_distillation"] = self._distil(logits, known[:, :taught])
            shares["server_distillation"] = self.server_weight
        total = fsum(shares.values())
        return {name: shares[name] / total * term for name, term in terms.items()}

    def finish_local(self, network: IncrementalNetwork, context: LocalContext) -> UploadAndKept:
        """Upload nothing; keep the own teacher and the local model that becomes it next."""
        if not self.own_weight:
            return {}, context.kept
        kept = {
            **labelled("previous", own_teacher(context)),
            **labelled("latest", weights_of(network)),
        }
        return {}, {**kept, "finished_tasks": torch.tensor(_finished_tasks(context))}

    def broadcast(
        self, server: ServerState, old_model: StoredModel | None, twin_id: str
    ) -> Broadcast:
        """Return the message with the number of rows that the global model can teach."""
        message = super().broadcast(server, old_model, twin_id)
        taught = (
            {"taught_rows": server.kept["taught_rows"]}
            if "taught_rows" in server.kept and self.server_weight
            else {}
        )
        return replace(message, extras=taught)

    def merge(self, own: ServerState, arrived: Sequence[Arrived]) -> ServerState:
        """Return the mean of the local models; all of its rows can teach from now on."""
        taught = {"taught_rows": torch.tensor(num_rows(own.weights))}
        return replace(super().merge(own, arrived), kept={**own.kept, **taught})

    def _distil(self, logits: Tensor, known: Tensor) -> Tensor:
        return losses.old_class_distillation(logits, known, self.temperature, self.head_loss)


def own_teacher(context: LocalContext) -> Weights:
    """Return the twin's model of the end of its task before; nothing in its first task."""
    ended = "finished_tasks" in context.kept and _finished_tasks(context) > int(
        context.kept["finished_tasks"]
    )
    return with_label("latest" if ended else "previous", context.kept)


def _finished_tasks(context: LocalContext) -> int:
    return max(len(context.groups) - 1, 0)
