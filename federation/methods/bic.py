"""BiC+FL: distillation by the share of old classes, and a bias correction of new classes' logits.

Source: Wu et al., Large Scale Incremental Learning, CVPR 2019, eq. 1 to 3 (loss, lambda = C_old /
C) and 4 (bias correction: ``alpha o + beta`` for the logits of new classes, old ones as they are),
section 4.2 (a held-out part with as many images of each class).

In the federation: each twin fits alpha and beta of its local model to its held-out images, after
every round in which it has held-out images of old and of new classes; the server takes the mean,
each twin counted by those images, and folds it into the rows of the new classes, which is exact for
a linear head: ``alpha (w f + b) + beta = (alpha w) f + (alpha b + beta)``. Every round, because
nobody knows which round is a task's last, and every round's model may be evaluated or become the
old model; the next round trains on from the corrected head, where the paper leaves the layer below
it uncorrected. New are the classes that the teacher does not know, so a latecomer's too. The
penalty on the fit is ours: a handful of images that are all named rightly would drive alpha to
infinity. Where a twin keeps nothing out of training (``twin.hold_out``), it sends no correction and
this is the loss alone. Reduces to FedAvg with memory, bit for bit, while there is no old model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mode
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional

from federation.aggregation.means import Arrived, Mean
from federation.method import Method
from federation.server import ServerState
from incremental.head import Weights, num_rows
from incremental.inference import logits_of
from incremental.network import IncrementalNetwork
from twin import losses
from twin.batches import TrainingBatch
from twin.objective import LocalContext, Terms, UploadAndKept
from twin.privacy.upload_policy import UploadKinds

_LARGEST = 10.0  # an alpha or beta beyond this is no bias correction: it is left out


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BiC(Method):
    """BiC+FL.

    Args:
        temperature: Of the distillation with ``ce`` (paper: 2).
        held_out_fraction: Share of each class's images that is kept out of training for the
            correction (paper: 0.1); 0: no correction.
        penalty: Weight of ``(alpha - 1)^2 + beta^2`` in the fit, against the mean cross-entropy.
        head_loss: ``ce`` (paper) or ``bce`` (belongs to FedKA's learning rate of 2).
        mean: ``by_images`` (FedAvg) or ``equal``.
    """

    per_sample_loss = True
    uploads: ClassVar[tuple[str, ...]] = (
        "two numbers that correct the logits of new classes, the number of held-out images behind "
        "them and the first new row, each round",
    )

    temperature: float = 2.0
    held_out_fraction: float = 0.1
    penalty: float = 0.01
    head_loss: losses.HeadLoss = "ce"
    mean: Mean = "by_images"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; allowed: above 0")
        if not 0 <= self.held_out_fraction <= 0.5:
            raise ValueError(f"held_out_fraction is {self.held_out_fraction}; allowed: 0 to 0.5")
        if not self.penalty > 0:
            raise ValueError(
                f"penalty is {self.penalty}; allowed: above 0; without it a fit to few images has "
                "no end"
            )

    @property
    def upload_kinds(self) -> UploadKinds:
        """Of what kind its uploads are."""
        if not self.held_out_fraction:
            return UploadKinds()
        return UploadKinds(
            {"bias_correction": ("bias_correction",), "bias_support": ("bias_correction",)},
            avoided_by="held_out_fraction: 0",
        )

    @property
    def teaches(self) -> bool:
        """The old model is needed."""
        return True

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return ``(1 - lambda)`` classification and ``lambda`` distillation: C_old / C."""
        logits = network(batch.images).logits
        fit = losses.plain_classification(logits, batch.rows, self.head_loss)
        if context.old_network is None:
            return {"classification": fit}
        old_logits = context.old_logits(batch)
        share = old_logits.shape[1] / logits.shape[1]
        semantic = losses.old_class_distillation(
            logits, old_logits, self.temperature, self.head_loss
        )
        return {"classification": (1 - share) * fit, "semantic": share * semantic}

    def finish_local(self, network: IncrementalNetwork, context: LocalContext) -> UploadAndKept:
        """Upload the correction fitted to held-out images of old and of new classes."""
        if context.held_out is None or not context.old_rows:
            return {}, context.kept
        images, rows = context.held_out()
        is_new = rows >= context.old_rows
        if not bool(is_new.any()) or bool(is_new.all()):
            return {}, context.kept
        logits = logits_of(network, (images * 255).round().to(torch.uint8))
        alpha, beta = fit_correction(logits, rows, context.old_rows, self.penalty)
        support = torch.tensor([len(rows), context.old_rows])
        return {
            "bias_correction": torch.tensor([alpha, beta]),
            "bias_support": support,
        }, context.kept

    def merge(self, own: ServerState, arrived: Sequence[Arrived]) -> ServerState:
        """Return the mean of the local models with the mean correction folded into new rows."""
        weights = self.merged_weights(own, arrived)
        correction = mean_correction([each.update.upload for each in arrived], num_rows(weights))
        if correction is not None:
            weights = fold_correction(weights, *correction)
        return replace(own, weights=weights)


def fit_correction(
    logits: Float[Tensor, "N C"], rows: Int[Tensor, " N"], num_old: int, penalty: float
) -> tuple[float, float]:
    """Return the alpha and beta that minimise mean cross-entropy plus penalty, which is convex.

    Args:
        logits: Of held-out images.
        rows: Their classes.
        num_old: Classes that the teacher knows; the others' logits are corrected.
        penalty: Weight of ``(alpha - 1)^2 + beta^2``.
    """
    logits = logits.double()
    correction = torch.tensor([1.0, 0.0], dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.LBFGS([correction], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        corrected = torch.cat(
            [logits[:, :num_old], correction[0] * logits[:, num_old:] + correction[1]], 1
        )
        value = functional.cross_entropy(corrected, rows) + penalty * (
            (correction[0] - 1) ** 2 + correction[1] ** 2
        )
        value.backward()  # type: ignore[no-untyped-call]  # the library is untyped
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]  # the library is untyped
    alpha, beta = correction.tolist()
    return alpha, beta


def mean_correction(
    uploads: Sequence[Mapping[str, Tensor]], classes: int
) -> tuple[float, float, int] | None:
    """Return mean alpha and beta by held-out images, and the first new row; none without uploads.

    Left out are uploads of other shapes, numbers that are no correction, and those whose first new
    row is not that of most.
    """
    usable = [each for each in uploads if _usable(each, classes)]
    if not usable:
        return None
    first = mode(int(each["bias_support"][1]) for each in usable)
    agreeing = [each for each in usable if int(each["bias_support"][1]) == first]
    images = torch.stack([each["bias_support"][0] for each in agreeing]).double()
    corrections = torch.stack([each["bias_correction"] for each in agreeing]).double()
    alpha, beta = ((corrections * images[:, None]).sum(0) / images.sum()).tolist()
    return alpha, beta, first


def _usable(upload: Mapping[str, Tensor], classes: int) -> bool:
    correction, support = upload.get("bias_correction"), upload.get("bias_support")
    if (
        correction is None
        or support is None
        or correction.shape != (2,)
        or support.shape != (2,)
        or support.is_floating_point()
    ):
        return False
    alpha, beta = correction.tolist()
    images, first = (int(value) for value in support)
    return 0 < alpha <= _LARGEST and abs(beta) <= _LARGEST and images > 0 and 0 < first < classes


def fold_correction(weights: Weights, alpha: float, beta: float, first_new_row: int) -> Weights:
    """Return weights whose head gives ``alpha o + beta`` for new classes alone."""
    matrix, bias = weights["head.weight"].clone(), weights["head.bias"].clone()
    matrix[first_new_row:] *= alpha
    bias[first_new_row:] = alpha * bias[first_new_row:] + beta
    return {**weights, "head.weight": matrix, "head.bias": bias}
