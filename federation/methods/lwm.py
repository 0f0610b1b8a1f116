"""LwM+FL: learning without memory by distillation of outputs and of attention from the old model.

Source: Dhar et al., Learning without Memorizing, CVPR 2019, eq. 2 (distillation), 4 (attention
distillation) and 5 (their sum); "lwm+FL" is a baseline of FedKA's tables and defined there by its
name alone: twins run LwM, the server averages as FedAvg does. The class whose attention is compared
is the teacher's first choice, as in the paper. Gradient flows through the student's Grad-CAM (the
public implementation best known detaches it, so that its attention loss trains nothing). Reduces to
FedAvg, bit for bit, with ``distillation_weight: 0`` and ``attention_weight: 0``.
"""

from functools import partial
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from federation.aggregation.means import Mean
from federation.method import Method
from incremental.attention import AttentionLayer, attention
from incremental.network import IncrementalNetwork
from twin import losses
from twin.batches import TrainingBatch
from twin.objective import LocalContext, Terms


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LwM(Method):
    """LwM+FL.

    Args:
        distillation_weight: beta, weight of the distillation (public implementation: 1).
        attention_weight: gamma, weight of the attention distillation (public implementation: 1).
        temperature: Of the distillation with ``ce`` (public implementation: 2).
        head_loss: ``ce`` (paper) or ``bce`` (belongs to FedKA's learning rate of 2).
        attention_layer: ``last``: maps after the fourth stage, closed form; ``middle``: after the
            third, by autograd.
        attention_reduction: Over positions; ``mean`` where the sum diverges.
        mean: ``by_images`` (FedAvg) or ``equal``.
    """

    distillation_weight: float = 1.0
    attention_weight: float = 1.0
    temperature: float = 2.0
    head_loss: losses.HeadLoss = "ce"
    attention_layer: AttentionLayer = "last"
    attention_reduction: Literal["sum", "mean"] = "sum"
    mean: Mean = "by_images"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("distillation_weight", "attention_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 or more")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; allowed: above 0")

    @property
    def replays(self) -> bool:
        """Learns without memorising: exemplars are not trained on."""
        return False

    @property
    def teaches(self) -> bool:
        """Whether the old model is needed."""
        return self.distillation_weight > 0 or self.attention_weight > 0

    @property
    def per_sample_loss(self) -> bool:
        """Whether the loss is a mean over images: attention, which reads the head, is not."""
        return not self.attention_weight

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return classification and, where there is a teacher, both distillations."""
        outputs = network(batch.images)
        ones = outputs.logits.new_ones(len(batch.rows)).float()
        terms = {
            "classification": losses.classification(
                outputs.logits, batch.rows, ones, self.head_loss
            )
        }
        if context.old_network is None or not self.teaches:
            return terms
        old_logits, old_attention = context.teacher_outputs(
            "logits and attention", partial(self._look, context.old_network), batch
        )
        if self.distillation_weight:
            semantic = losses.old_class_distillation(
                outputs.logits, old_logits, self.temperature, self.head_loss
            )
            terms["semantic"] = self.distillation_weight * semantic
        if self.attention_weight:
            distance = losses.attention_distillation(
                attention(network, outputs, old_logits.argmax(1), self.attention_layer),
                old_attention,
                ones,
                self.attention_reduction,
            )
            terms["attention"] = self.attention_weight * distance
        return terms

    def _look(
        self, teacher: IncrementalNetwork, images: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the teacher's logits and its attention to its first choice, the top base class."""
        outputs = teacher(images)
        return outputs.logits, attention(
            teacher, outputs, outputs.logits.argmax(1), self.attention_layer
        )
