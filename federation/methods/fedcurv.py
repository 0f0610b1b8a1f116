"""FedCurv: a penalty on the distance from the other twins' models, weighted by Fisher information.

Source: Shoham et al., Overcoming Forgetting in Federated Learning on Non-IID Data, NeurIPS 2019
workshop on federated learning, arXiv:1910.07796, eq. 3 and section 3: elastic weight consolidation
(Kirkpatrick et al., PNAS 2017) over twins instead of tasks. A twin's loss is ``L + lambda sum over
other twins j of (theta - theta_j)' diag(I_j) (theta - theta_j)``. The server sends the sums over
all j of ``diag(I_j)`` and ``diag(I_j) theta_j``; a twin takes its own share out of them. What is
minimised here differs from the equation by a constant: the squares are completed around the mean of
the others' weights, so the reported term is 0 there and never negative.

I_j is the mean over single images of the squared gradient at the class that they have (the
empirical Fisher information), in evaluation mode. The sums are those of the last round in which
anyone was accepted. Rows that the head gained since count 0. Reduces to FedAvg, bit for bit, at
``curvature_weight: 0``, and in its first round.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from federation.aggregation.means import Arrived, matched_updates
from federation.methods.averaging import AveragingMethod
from federation.server import ServerState
from incremental.head import Weights, num_rows
from incremental.network import IncrementalNetwork
from incremental.proxy import StoredModel
from incremental.weight_tensors import labelled, padded, parameters_of, with_label
from twin import losses
from twin.batches import TrainingBatch
from twin.messages import Broadcast
from twin.objective import LocalContext, Terms, UploadAndKept
from twin.privacy.upload_policy import UploadKinds

_DISTINGUISHABLE = (
    1e-6  # a share of a float32 sum below this is rounding of what was taken out of it
)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class FedCurv(AveragingMethod):
    """FedCurv.

    Args:
        curvature_weight: lambda, weight of the others' curvature.
        fisher_images: Most images from which a twin estimates its Fisher information; one backward
            pass each.
    """

    uploads: ClassVar[tuple[str, ...]] = (
        "the mean squared gradient of each weight over some of the twin's images (diagonal of the "
        "Fisher information)",
    )

    # A twin takes its own share, made of its weights, out of the server's sums.
    needs_exact_weights: ClassVar[bool] = True

    curvature_weight: float = 1.0
    fisher_images: int = 200

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.curvature_weight >= 0:
            raise ValueError(
                f"curvature_weight is {self.curvature_weight}; allowed: 0 or more (0 is FedAvg)"
            )
        if self.fisher_images < 1:
            raise ValueError(f"fisher_images is {self.fisher_images}; allowed: 1 or more")

    @property
    def upload_kinds(self) -> UploadKinds:
        """Of what kind its uploads are."""
        if not self.curvature_weight:
            return UploadKinds()
        return UploadKinds({"fisher": ("fisher_information",)}, avoided_by="curvature_weight: 0")

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return cross-entropy and the distance from the other twins' models."""
        logits = network(batch.images).logits
        terms = {"classification": losses.plain_classification(logits, batch.rows, self.head_loss)}
        others = (
            context.cached("others", lambda: curvature_of_others(context))
            if self.curvature_weight
            else None
        )
        if others is not None:
            curvatures, centres = others
            distance = losses.curvature_distance(
                dict(network.named_parameters()), centres, curvatures
            )
            terms["curvature"] = self.curvature_weight * distance
        return terms

    def finish_local(self, network: IncrementalNetwork, context: LocalContext) -> UploadAndKept:
        """Upload the Fisher information at the local model; keep the twin's share of the sums."""
        if not self.curvature_weight or context.images is None:
            return {}, context.kept
        images, rows = context.images()
        chosen = torch.randperm(len(images), generator=context.generator)[: self.fisher_images]
        fisher = fisher_diagonal(network, images[chosen], rows[chosen], self.head_loss)
        pull = {
            name: fisher[name] * value.detach().contiguous()
            for name, value in network.named_parameters()
        }
        kept = {
            **labelled("fisher", fisher),
            **labelled("pull", pull),
            "round": context.extras["round"],
        }
        return labelled("fisher", fisher), kept

    def broadcast(
        self, server: ServerState, old_model: StoredModel | None, twin_id: str
    ) -> Broadcast:
        """Return the message with both sums, the round, and that of this twin's share in them."""
        message = super().broadcast(server, old_model, twin_id)
        if not self.curvature_weight:
            return message
        sums = {
            label: padded(with_label(label, server.kept), num_rows(server.weights))
            for label in ("fisher", "pull")
        }
        own_round = server.kept.get(f"summed/{twin_id}", torch.tensor(-1))
        clock = {"round": torch.tensor(server.round), "own_round": own_round}
        return replace(
            message,
            extras={
                **labelled("fisher", sums["fisher"]),
                **labelled("pull", sums["pull"]),
                **clock,
            },
        )

    def merge(self, own: ServerState, arrived: Sequence[Arrived]) -> ServerState:
        """Return the mean of the models and the sums of the uploads that fit."""
        like = parameters_of(own.weights)
        fitting = {
            each.twin_id: (with_label("fisher", each.upload), each.weights)
            for each in matched_updates(own.weights, own.class_names, arrived)
        }
        fitting = {twin_id: pair for twin_id, pair in fitting.items() if _fits(pair[0], like)}
        merged = super().merge(own, arrived)
        if not fitting:
            return merged
        pairs = list(fitting.values())
        fisher = {name: _sum([each[name] for each, _ in pairs]) for name in like}
        pull = {
            name: _sum([each[name] * weights[name] for each, weights in pairs]) for name in like
        }
        members = {f"summed/{twin_id}": torch.tensor(own.round) for twin_id in fitting}
        return replace(
            merged, kept={**labelled("fisher", fisher), **labelled("pull", pull), **members}
        )


def curvature_of_others(context: LocalContext) -> tuple[Weights, Weights] | None:
    """Return the others' summed Fisher information and the mean of their weights by it; or none."""
    total = padded(with_label("fisher", context.extras), context.num_rows)
    pull = padded(with_label("pull", context.extras), context.num_rows)
    if not total:
        return None
    curvatures = total
    # A twin whose update was turned away has trained since: what it keeps is not what is in the
    # sums.
    if "round" in context.kept and int(context.kept["round"]) == int(context.extras["own_round"]):
        own = padded(with_label("fisher", context.kept), context.num_rows)
        own_pull = padded(with_label("pull", context.kept), context.num_rows)
        curvatures = {name: value - own[name] for name, value in total.items()}
        pull = {name: value - own_pull[name] for name, value in pull.items()}
    known = {name: value > _DISTINGUISHABLE * total[name] for name, value in curvatures.items()}
    curvatures = {name: torch.where(known[name], value, 0.0) for name, value in curvatures.items()}
    centres = {
        name: torch.where(known[name], pull[name] / curvatures[name], 0.0) for name in curvatures
    }
    return curvatures, centres


def fisher_diagonal(
    network: IncrementalNetwork, images: Tensor, rows: Tensor, head_loss: losses.HeadLoss
) -> Weights:
    """Return the mean squared gradient of each image's own loss over images [N, C, H, W]."""
    network.eval()
    parameters = dict(network.named_parameters())
    sums = [torch.zeros_like(value) for value in parameters.values()]
    for image, row in zip(torch.split(images, 1), torch.split(rows, 1), strict=True):
        loss = losses.classification(network(image).logits, row, torch.ones(1), head_loss)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        sums = [total + gradient.square() for total, gradient in zip(sums, gradients, strict=True)]
    return {
        name: (total / len(images)).contiguous()
        for name, total in zip(parameters, sums, strict=True)
    }


def _sum(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value.double() for value in values]).sum(0).float()


def _fits(fisher: Mapping[str, Tensor], like: Weights) -> bool:
    """Whether an upload has a value of 0 or more for each parameter: a negative one would repel."""
    return fisher.keys() == like.keys() and all(
        fisher[name].shape == value.shape
        and fisher[name].dtype == value.dtype
        and bool((fisher[name] >= 0).all())
        for name, value in like.items()
    )
