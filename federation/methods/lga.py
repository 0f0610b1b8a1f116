"""LGA: gradient-adaptive classification and distillation, balanced by task, from the old model.

Source: Dong et al., No One Left Behind: Real-World Federated Class-Incremental Learning, TPAMI 2023
(arXiv:2302.00903), category-balanced gradient-adaptive compensation loss and category
gradient-induced semantic distillation loss, in the form of the public code: sigmoids and binary
cross-entropy averaged over batch and classes, groups that grow over the finished tasks, weights
clamped to [0.5, 5] (``weighting: lga_cumulative_clamped``); the equation as typeset is
``paper_per_task``. The exponent is that of the twin's own classes, C_o / (C_o + C_t); the code's t
/ (t + 1) is the same number for equal tasks all of which the twin took part in.

The proxy server's score: accuracy of the head on perturbed features of the reconstructed
prototypes, 0 in a task's first rounds so that only its later ones compete. The code sets the radius
of the perturbation to 0.15 in the first task and then computes it from raw training images on the
server; here it stays what is configured, because no image leaves a hospital. Reduces to GLFC times
2 with ``weighting: none`` (and GLFC's ``weighted: false``) where there is an old model; to FedAvg's
binary cross-entropy with memory, bit for bit, before a twin's first finished task without one; to
FedKA without attention, bit for bit, where FedKA's weights of classification and distillation are 1
and its weighting is the same.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from federation.aggregation.means import Arrived, Mean
from federation.method import Method
from federation.methods import prototypes
from federation.methods.prototypes import (
    collect_prototypes,
    encode_prototypes,
    score_on_perturbed_prototypes,
)
from federation.server import ServerState
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
class LGA(Method):
    """LGA.

    Args:
        lam: Weight of the whole loss (code: 1); 0.5 with ``weighting: none`` is GLFC without
            weights.
        weighting: How gradients become weights: ``lga_cumulative_clamped`` (code),
            ``paper_per_task`` (as typeset) or ``none``.
        head_loss: ``bce`` (code; belongs to a learning rate of 2) or ``ce`` (as typeset).
        mean: ``equal`` (code) or ``by_images``.
        radius: Scales the perturbation of features in the score (code: 0.15 in the first task); 0:
            none.
        copies: Perturbed copies of each feature (code: 5).
        warm_up_rounds: First rounds of a task whose models score 0 (code: 6 of 10); where a task
            has no more, its last model is kept.
        reconstruction: How prototypes are perturbed and recovered.
    """

    uploads: ClassVar[tuple[str, ...]] = prototypes.UPLOADS

    lam: float = 1.0
    weighting: losses.Weighting = "lga_cumulative_clamped"
    head_loss: losses.HeadLoss = "bce"
    mean: Mean = "equal"
    radius: float = 0.15
    copies: int = 5
    warm_up_rounds: int = 6
    reconstruction: ReconstructionConfig = Field(default_factory=ReconstructionConfig)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.lam > 0:
            raise ValueError(f"lam is {self.lam}; allowed: above 0")
        if self.radius < 0:
            raise ValueError(f"radius is {self.radius}; allowed: 0 or more")
        if self.copies < 1 or self.warm_up_rounds < 0:
            raise ValueError(
                f"copies is {self.copies} and warm_up_rounds {self.warm_up_rounds}; allowed: 1 or "
                "more and 0 or more"
            )

    @property
    def upload_kinds(self) -> UploadKinds:
        """Of what kind its uploads are."""
        return UploadKinds(prototypes.UPLOAD_KINDS)

    @property
    def teaches(self) -> bool:
        """Whether the old model is needed."""
        return True

    @property
    def per_sample_loss(self) -> bool:
        """Whether the loss is a mean over images: weights of images compare them with the batch."""
        return self.weighting == "none"

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return weighted classification and, with a teacher, distillation weighted the same."""
        logits = network(batch.images).logits
        weights = gradient_weights(logits, batch.rows, context, self.head_loss, self.weighting)
        terms = {
            "classification": self.lam
            * losses.classification(logits, batch.rows, weights, self.head_loss)
        }
        if context.old_network is not None:
            old_logits = context.old_logits(batch)
            terms["semantic"] = self.lam * losses.semantic_distillation(
                logits, old_logits, batch.rows, weights, self.head_loss
            )
        return terms

    def finish_local(self, network: IncrementalNetwork, context: LocalContext) -> UploadAndKept:
        """Upload the encoded prototypes of a task that this twin has just detected."""
        return encode_prototypes(network, context, self.reconstruction), context.kept

    def merge(self, own: ServerState, arrived: Sequence[Arrived]) -> ServerState:
        """Return the mean of the local models, and the prototypes that could be reconstructed."""
        return collect_prototypes(super().merge(own, arrived), arrived, self.reconstruction)

    def score(self, server: ServerState, observations: Sequence[Observation]) -> Score | None:
        """Return the accuracy on perturbed prototype features; 0 in a task's first rounds."""
        score = score_on_perturbed_prototypes(server, self.radius, self.copies)
        if score is None or server.rounds_since_task_began > self.warm_up_rounds:
            return score
        return replace(score, value=0.0)  # ties go to the later model
