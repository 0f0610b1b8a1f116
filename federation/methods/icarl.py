"""iCaRL+FL: binary cross-entropy, distillation and herding; nearest mean as second classifier.

Source: Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, CVPR 2017,
algorithm 3 (loss), 4 (herding, done by the twin's memory) and 1 (nearest mean of exemplars);
"iCaRL+FL" is a baseline of FedKA's tables and defined there by its name alone: twins run iCaRL with
the global model of the task before as teacher, the server averages as FedAvg does, and the linear
head answers. With ``head_loss: ce`` it is the softmax form of a public re-implementation:
cross-entropy and distillation at a temperature.

The second classifier, the nearest mean: each twin uploads the mean unit feature of each class under
its local model, and the server keeps the means of each class, each twin counted by its images. That
is the mean of the twins' features and not the feature of the mean model, so it is exact only when
the local models are alike. A class that nobody sent keeps its last mean. Reduces to FedAvg's binary
cross-entropy with memory, bit for bit, while there is no old model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional

from federation.aggregation.means import Arrived, Mean
from federation.method import Classifier, Method
from federation.server import ServerState
from incremental.head import num_rows, pad_rows
from incremental.inference import features_of
from incremental.network import IncrementalNetwork, frozen_network
from twin import losses
from twin.batches import TrainingBatch
from twin.objective import LocalContext, Terms, UploadAndKept
from twin.privacy.upload_policy import UploadKinds


@plain_dataclass(frozen=True)
class ClassMeans:
    """The server's mean of each class.

    Args:
        means: Unit vectors; zeros where unknown, shape [C, D].
        known: Which classes have one, shape [C].
    """

    means: Float[Tensor, "C D"]
    known: Bool[Tensor, " C"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ICaRL(Method):
    """iCaRL+FL.

    Args:
        distillation_weight: Weight of the distillation (paper: 1).
        head_loss: ``bce`` (paper; belongs to a learning rate of 2) or ``ce``.
        temperature: Of the distillation with ``ce`` (public re-implementation: 2).
        mean: ``by_images`` (FedAvg) or ``equal``.
        sends_class_means: Upload mean features for the nearest mean; False uploads nothing but
            weights.
        least_images: Classes of which a twin has fewer images are left out of its upload: a mean of
            few is nearly an image's own feature.
    """

    per_sample_loss = True
    uploads: ClassVar[tuple[str, ...]] = (
        "the mean unit feature of each class that a twin trains on, and the number of images "
        "behind it, each round; a mean of few images says much about each (least_images)",
    )

    second_classifier: ClassVar[str] = "nearest mean"

    distillation_weight: float = 1.0
    head_loss: losses.HeadLoss = "bce"
    temperature: float = 2.0
    mean: Mean = "by_images"
    sends_class_means: bool = True
    least_images: int = 10

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.distillation_weight < 0:
            raise ValueError(
                f"distillation_weight is {self.distillation_weight}; allowed: 0 or more"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; allowed: above 0")
        if self.least_images < 1:
            raise ValueError(f"least_images is {self.least_images}; allowed: 1 or more")

    @property
    def upload_kinds(self) -> UploadKinds:
        """Of what kind its uploads are."""
        if not self.sends_class_means:
            return UploadKinds()
        return UploadKinds(
            {"class_means": ("feature_statistics",), "class_counts": ("class_counts",)},
            avoided_by="sends_class_means: false",
        )

    @property
    def teaches(self) -> bool:
        """Whether the old model is needed."""
        return self.distillation_weight > 0

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return classification and, with a teacher, distillation (``bce``: of new classes)."""
        logits = network(batch.images).logits
        if context.old_network is None or not self.teaches:
            ones = logits.new_ones(len(batch.rows)).float()
            return {
                "classification": losses.classification(logits, batch.rows, ones, self.head_loss)
            }
        old_logits = context.old_logits(batch)
        if self.head_loss == "bce":
            fit = losses.new_class_classification(logits, batch.rows, old_logits.shape[1])
        else:
            fit = losses.plain_classification(logits, batch.rows, "ce")
        semantic = losses.old_class_distillation(
            logits, old_logits, self.temperature, self.head_loss
        )
        return {"classification": fit, "semantic": self.distillation_weight * semantic}

    def finish_local(self, network: IncrementalNetwork, context: LocalContext) -> UploadAndKept:
        """Upload the mean unit feature of each class that was trained on."""
        if context.images is None or not self.sends_class_means:
            return {}, context.kept
        images, rows = context.images()
        features = features_of(network, (images * 255).round().to(torch.uint8)).to(rows.device)
        sums, counts = sums_by_class(features, rows, context.num_rows)
        enough = counts >= self.least_images
        means = torch.where(enough[:, None], sums / counts.clamp_min(1)[:, None], 0.0)
        return {"class_means": means, "class_counts": torch.where(enough, counts, 0)}, context.kept

    def merge(self, own: ServerState, arrived: Sequence[Arrived]) -> ServerState:
        """Return the mean of the local models, and the newest mean of each class."""
        merged = super().merge(own, arrived)
        return collect_class_means(merged, [each.update.upload for each in arrived])

    def classify(self, server: ServerState) -> Classifier | None:
        """Return the nearest mean of exemplars, once means have arrived."""
        return nearest_mean_classifier(server)


def sums_by_class(
    features: Float[Tensor, "N D"], rows: Int[Tensor, " N"], classes: int
) -> tuple[Float[Tensor, "C D"], Int[Tensor, " C"]]:
    """Return the sum of each class's unit features and its number of images."""
    sums = torch.zeros(classes, features.shape[1]).index_add(
        0, rows, functional.normalize(features, dim=1)
    )
    return sums, torch.zeros(classes, dtype=torch.int64).index_add(0, rows, torch.ones_like(rows))


def collect_class_means(
    server: ServerState, uploads: Sequence[Mapping[str, Tensor]]
) -> ServerState:
    """Return the server with the new mean of each class that arrived; the others keep theirs.

    An upload that is not one mean and one count per row of the head is left out.
    """
    classes, width = server.weights["head.weight"].shape
    fitting = [each for each in uploads if _fits(each, classes, width)]
    if not fitting:
        return server
    counts = torch.stack([each["class_counts"] for each in fitting])  # [K, C]
    means = torch.stack([each["class_means"] for each in fitting]).double()  # [K, C, D]
    total = counts.sum(0)
    fresh = ((means * counts[:, :, None]).sum(0) / total.clamp_min(1)[:, None]).float()
    before = pad_rows(server.kept.get("class_means", torch.zeros(0, width)), classes)
    return replace(
        server,
        kept={**server.kept, "class_means": torch.where((total > 0)[:, None], fresh, before)},
    )


def _fits(upload: Mapping[str, Tensor], classes: int, width: int) -> bool:
    means, counts = upload.get("class_means"), upload.get("class_counts")
    if (
        means is None
        or counts is None
        or means.shape != (classes, width)
        or counts.shape != (classes,)
    ):
        return False
    return means.is_floating_point() and counts.dtype == torch.int64 and bool((counts >= 0).all())


def class_means(server: ServerState) -> ClassMeans | None:
    """Return the server's mean of each class of the present head; none before any arrived."""
    means = server.kept.get("class_means")
    if means is None:
        return None
    padded = pad_rows(means, num_rows(server.weights))
    return ClassMeans(functional.normalize(padded, dim=1), padded.square().sum(1) > 0)


def nearest_mean(features: Float[Tensor, "N D"], means: ClassMeans) -> Int[Tensor, " N"]:
    """Return the class whose known mean is nearest to each unit feature (iCaRL, algorithm 1)."""
    distance = torch.cdist(
        functional.normalize(features, dim=1),
        means.means,
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    return distance.masked_fill(~means.known, torch.inf).argmin(1)


def nearest_mean_classifier(server: ServerState) -> Classifier | None:
    """Return the nearest-mean classifier on the global model's features; none without means."""
    means = class_means(server)
    if means is None:
        return None
    network = frozen_network(server.network, server.weights)
    return lambda images: nearest_mean(features_of(network, images), means)
