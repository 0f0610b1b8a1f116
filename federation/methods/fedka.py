"""FedKA: gradient-adaptive classification, semantic and Grad-CAM attention distillation.

Source: FedKA, hybrid knowledge distillation for heterogeneous federated class-incremental learning
in digital twins, section 2.2. Its ambiguities are settled as in the notes on methods, section 3.
Builds on LGA (Dong et al., No One Left Behind, TPAMI 2023). Reduces to FedAvg, bit for bit, with
``head_loss: ce``, ``weighting: none``, ``classification_weight: 1`` and both distillations at 0.
"""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from federation.aggregation.means import Arrived, Mean
from federation.method import Method
from federation.methods import prototypes
from federation.methods.prototypes import collect_prototypes, encode_prototypes, score_on_prototypes
from federation.server import ServerState
from incremental.attention import AttentionLayer, attention
from incremental.network import IncrementalNetwork
from incremental.proxy import Score
from incremental.reconstruction import ReconstructionConfig
from twin import losses
from twin.batches import TrainingBatch
from twin.gradient_weighting import gradient_weights
from twin.messages import Observation
from twin.objective import LocalContext, Terms, UploadAndKept
from twin.privacy.upload_policy import UploadKinds


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FedKA(Method):
    """FedKA.

    Args:
        classification_weight: alpha, weight of L_CB.
        semantic_weight: beta, weight of L_SD.
        attention_weight: gamma, weight of L_AD.
        head_loss: ``bce`` (public code of LGA; belongs to a learning rate of 2) or ``ce`` (as
            typeset).
        weighting: How gradients become weights; ``none`` is the ablation "without CBL" for every
            term.
        attention_layer: ``last``: maps after the fourth stage, closed form; ``middle``: after the
            third, by autograd.
        attention_reduction: Over positions; ``mean`` where the sum diverges.
        attention_weighted: False is the ablation "without WADL": L_Q without gradient weights.
        classification_weighted: False is the ablation "without CBL": plain cross-entropy.
        mean: ``equal`` (paper: 1/n) or ``by_images``.
        reconstruction: How prototypes are perturbed and recovered; none: nothing but weights is
            uploaded, and images that twins hold back judge the models.
    """

    uploads: ClassVar[tuple[str, ...]] = prototypes.UPLOADS

    classification_weight: float = 2.0
    semantic_weight: float = 1.0
    attention_weight: float = 1.0
    head_loss: losses.HeadLoss = "bce"
    weighting: losses.Weighting = "paper_per_task"
    attention_layer: AttentionLayer = "last"
    attention_reduction: Literal["sum", "mean"] = "sum"
    attention_weighted: bool = True
    classification_weighted: bool = True
    mean: Mean = "equal"
    reconstruction: ReconstructionConfig | None = Field(default_factory=ReconstructionConfig)

    @property
    def upload_kinds(self) -> UploadKinds:
        """Of what kind its uploads are."""
        if self.reconstruction is None:
            return UploadKinds()
        return UploadKinds(prototypes.UPLOAD_KINDS, avoided_by="reconstruction: null")

    @property
    def teaches(self) -> bool:
        """Whether the old model is needed."""
        return self.semantic_weight > 0 or self.attention_weight > 0

    @property
    def per_sample_loss(self) -> bool:
        """Whether the loss is a mean over images: gradient weights and attention are not."""
        unweighted = self.weighting == "none" or not (
            self.classification_weighted or self.semantic_weight
        )
        return unweighted and not self.attention_weight

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return alpha L_CB, beta L_SD and gamma L_AD (the last two where there is a teacher)."""
        outputs = network(batch.images)
        weights = gradient_weights(
            outputs.logits, batch.rows, context, self.head_loss, self.weighting
        )
        ones = torch.ones_like(weights)
        fit = losses.classification(
            outputs.logits,
            batch.rows,
            weights if self.classification_weighted else ones,
            self.head_loss,
        )
        terms = {"classification": self.classification_weight * fit}
        if context.old_network is None or not self.teaches:
            return terms
        old_logits, old_attention = context.teacher_outputs(
            "logits and attention", partial(self._look, context.old_network), batch
        )
        if self.semantic_weight:
            semantic = losses.semantic_distillation(
                outputs.logits, old_logits, batch.rows, weights, self.head_loss
            )
            terms["semantic"] = self.semantic_weight * semantic
        if self.attention_weight:
            rows = classes_known_to_teacher(batch.rows, old_logits)
            distance = losses.attention_distillation(
                attention(network, outputs, rows, self.attention_layer),
                old_attention,
                weights if self.attention_weighted else ones,
                self.attention_reduction,
            )
            terms["attention"] = self.attention_weight * distance
        return terms

    def _look(
        self, teacher: IncrementalNetwork, images: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the teacher's logits [N, C_old] and attention [N, h, w] or nothing."""
        outputs = teacher(images)
        if not self.attention_weight:
            return outputs.logits, outputs.logits[:, :0]
        return outputs.logits, attention(
            teacher, outputs, classes_known_to_teacher(rows, outputs.logits), self.attention_layer
        )

    def finish_local(self, network: IncrementalNetwork, context: LocalContext) -> UploadAndKept:
        """Upload the encoded prototypes of a task that this twin has just detected."""
        uploads = (
            {}
            if self.reconstruction is None
            else encode_prototypes(network, context, self.reconstruction)
        )
        return uploads, context.kept

    def merge(self, own: ServerState, arrived: Sequence[Arrived]) -> ServerState:
        """Return the mean of the local models, and the prototypes that could be reconstructed."""
        merged = super().merge(own, arrived)
        if self.reconstruction is None:
            return merged
        return collect_prototypes(merged, arrived, self.reconstruction)

    def score(self, server: ServerState, observations: Sequence[Observation]) -> Score | None:
        """Return the accuracy on reconstructed prototypes; without them, on held-back images."""
        if self.reconstruction is None:
            return super().score(server, observations)
        return score_on_prototypes(server)


def classes_known_to_teacher(rows: Tensor, old_logits: Tensor) -> Tensor:
    """Return the class whose attention is compared: the image's own, else the teacher's choice."""
    return torch.where(rows < old_logits.shape[1], rows, old_logits.argmax(1))
