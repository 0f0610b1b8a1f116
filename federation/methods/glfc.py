"""GLFC: class-aware gradient compensation, and semantic distillation from the best old model.

Source: Dong et al., Federated Class-Incremental Learning, CVPR 2022, eq. 4 (class-aware gradient
compensation), 5 (semantic distillation) and 7 (their sum), in the form of the public code: sigmoids
and binary cross-entropy averaged over batch and classes, one group for all finished classes and one
for the others, prototypes perturbed on their pixels. Where the paper sums a Kullback-Leibler
divergence per task, the code has binary cross-entropy to [sigmoid(teacher), one-hot], and so does
this. Reduces, bit for bit: without an old model and before a twin's first finished task, to
FedAvg's binary cross-entropy with memory; with ``weighted: false`` and ``distillation_share: 0``,
to the same in every task.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from federation.aggregation.means import Arrived, Mean
from federation.method import Method
from federation.methods import prototypes
from federation.methods.prototypes import collect_prototypes, encode_prototypes, score_on_prototypes
from federation.server import ServerState
from incremental.network import IncrementalNetwork
from incremental.proxy import Score
from incremental.reconstruction import ReconstructionConfig
from twin import losses
from twin.batches import TrainingBatch
from twin.messages import Observation
from twin.objective import LocalContext, Terms, UploadAndKept
from twin.privacy.upload_policy import UploadKinds


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class GLFC(Method):
    """GLFC.

    Args:
        distillation_share: Weight of the distillation where there is an old model; classification
            has the rest (code: 0.5 and 0.5).
        weighted: Weigh images by their gradients; False is the paper's ablation "w/o CGC"
            (class-aware gradient compensation).
        head_loss: ``bce`` (code; belongs to a learning rate of 2) or ``ce`` (as typeset).
        mean: ``equal`` (code) or ``by_images``.
        reconstruction: How prototypes are perturbed and recovered.
    """

    uploads: ClassVar[tuple[str, ...]] = prototypes.UPLOADS

    distillation_share: float = 0.5
    weighted: bool = True
    head_loss: losses.HeadLoss = "bce"
    mean: Mean = "equal"
    reconstruction: ReconstructionConfig = Field(default_factory=ReconstructionConfig)

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 <= self.distillation_share < 1:
            raise ValueError(
                f"distillation_share is {self.distillation_share}; allowed: 0 to below 1; with 1 "
                "nothing new is learned"
            )

    @property
    def upload_kinds(self) -> UploadKinds:
        """Of what kind its uploads are."""
        return UploadKinds(prototypes.UPLOAD_KINDS)

    @property
    def teaches(self) -> bool:
        """Whether the old model is needed."""
        return self.distillation_share > 0

    @property
    def per_sample_loss(self) -> bool:
        """Whether the loss is a mean over images: weights of images compare them with the batch."""
        return not self.weighted

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return weighted classification and, with a teacher, distillation; each with its share."""
        logits = network(batch.images).logits
        weights = self._weights(logits, batch, context)
        fit = losses.classification(logits, batch.rows, weights, self.head_loss)
        if context.old_network is None or not self.teaches:
            return {"classification": fit}
        old_logits = context.old_logits(batch)
        semantic = losses.semantic_distillation(
            logits, old_logits, batch.rows, torch.ones_like(weights), self.head_loss
        )
        return {
            "classification": (1 - self.distillation_share) * fit,
            "semantic": self.distillation_share * semantic,
        }

    def finish_local(self, network: IncrementalNetwork, context: LocalContext) -> UploadAndKept:
        """Upload the encoded prototypes of a task that this twin has just detected."""
        return encode_prototypes(network, context, self.reconstruction), context.kept

    def merge(self, own: ServerState, arrived: Sequence[Arrived]) -> ServerState:
        """Return the mean of the local models, and the prototypes that could be reconstructed."""
        return collect_prototypes(super().merge(own, arrived), arrived, self.reconstruction)

    def score(self, server: ServerState, observations: Sequence[Observation]) -> Score | None:
        """Return the accuracy on the reconstructed prototypes."""
        return score_on_prototypes(server)

    def _weights(self, logits: Tensor, batch: TrainingBatch, context: LocalContext) -> Tensor:
        """Return ``g_i / mean g`` over images of finished classes and over the others."""
        magnitude = losses.gradient_magnitude(logits, batch.rows, self.head_loss)
        group = context.group_of_rows()[batch.rows]
        is_new = ((group < 0) | (group == len(context.groups) - 1)).long()
        # Weights by two groups are weights by task with all finished tasks as one, and an exponent
        # of 1.
        weighting: losses.Weighting = "paper_per_task" if self.weighted else "none"
        return losses.adaptive_weights(
            magnitude, is_new, 1 if context.num_finished else 0, 1.0, weighting
        )
