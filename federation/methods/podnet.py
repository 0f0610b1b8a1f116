"""PODNet+FL: distillation of pooled maps and of features, stronger the more classes are old.

Source: Douillard et al., PODNet: Pooled Outputs Distillation for Small-Tasks Incremental Learning,
ECCV 2020, eq. 4 (POD-spatial), 6 (POD-flat) and 8 (their sum), weights times sqrt(C / C_new) as in
its section 4. Twins run PODNet, the server averages as FedAvg does.

What differs: the head is this platform's linear one with cross-entropy, not the paper's cosine
classifier with 10 proxies per class and its margin loss, because every method here shares one head
that grows; so there is no balanced fine-tuning of proxies either. POD-spatial is over the two
stages whose maps a forward pass gives (the last and the one before), not all. Reduces to FedAvg
with memory, bit for bit, with ``spatial_weight: 0`` and ``flat_weight: 0``, and while there is no
old model.
"""

from math import sqrt

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from federation.aggregation.means import Mean
from federation.method import Method
from incremental.network import IncrementalNetwork
from twin import losses
from twin.batches import TrainingBatch
from twin.objective import LocalContext, Terms


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PODNet(Method):
    """PODNet+FL.

    Args:
        spatial_weight: lambda_c, weight of POD-spatial (authors' CIFAR-100 setting: 3; a public
            re-implementation: 5).
        flat_weight: lambda_f, weight of POD-flat (both: 1).
        head_loss: ``ce`` or ``bce`` of the linear head.
        mean: ``by_images`` (FedAvg) or ``equal``.
    """

    per_sample_loss = True
    spatial_weight: float = 3.0
    flat_weight: float = 1.0
    head_loss: losses.HeadLoss = "ce"
    mean: Mean = "by_images"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("spatial_weight", "flat_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 or more")

    @property
    def teaches(self) -> bool:
        """Whether the old model is needed."""
        return self.spatial_weight > 0 or self.flat_weight > 0

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return classification and, with a teacher, both distillations times sqrt(C / C_new)."""
        outputs = network(batch.images)
        ones = outputs.logits.new_ones(len(batch.rows)).float()
        terms = {
            "classification": losses.classification(
                outputs.logits, batch.rows, ones, self.head_loss
            )
        }
        if context.old_network is None or not self.teaches:
            return terms
        with torch.no_grad():
            old = context.old_network(batch.images)
        scale = sqrt(context.num_rows / max(context.num_rows - context.old_rows, 1))
        if self.spatial_weight:
            stages = [(outputs.middle_maps, old.middle_maps), (outputs.maps, old.maps)]
            spatial = torch.stack(
                [losses.spatial_distillation(maps, old_maps) for maps, old_maps in stages]
            ).mean()
            terms["spatial"] = self.spatial_weight * scale * spatial
        if self.flat_weight:
            terms["flat"] = (
                self.flat_weight
                * scale
                * losses.feature_distillation(outputs.features, old.features)
            )
        return terms
