"""Analytic head: ridge regression in closed form on a backbone that is frozen after a warm-up.

Source: the analytic line of class-incremental learning; federated as in STSA (spatial-temporal
statistics aggregation, 2025): twins upload sums over their images, the server solves ``W = (G + r
I)^-1 S`` with ``G = sum f f'`` (Gram matrix of features f with a 1 appended) and ``S = sum f
onehot(y)'``. Sums of twins add up, so W is that of all images pooled, whoever holds them and in
whatever order they came: the head forgets nothing by construction, and needs no exemplars. What it
cannot do is learn features for new classes.

What differs from STSA: no random projection and no pre-trained backbone. ``r`` is relative to the
mean diagonal of G, and the constant feature is not shrunk. Each twin's images count once, in the
first round of a task in which it is chosen (a later round sends the sums of what has arrived
since); a twin that is never chosen during a task does not count. The platform carries the model
with every update, so the measured traffic is not that of one upload per task. Before
``warm_up_rounds`` it is FedAvg without memory, bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from federation.aggregation.means import Arrived
from federation.method import Method
from federation.server import ServerState
from incremental.head import num_rows, pad_rows
from incremental.network import IncrementalNetwork
from incremental.proxy import StoredModel
from twin import losses
from twin.batches import TrainingBatch
from twin.messages import Broadcast, TwinUpdate
from twin.objective import LocalContext, Terms, UploadAndKept
from twin.privacy.upload_policy import UploadKinds

_FROZEN, _GRAM, _SUMS, _ROWS = "frozen", "gram", "class_sums", "task_rows"
_IMAGES_AT_ONCE = 256


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Analytic(Method):
    """Analytic head on frozen features.

    Args:
        warm_up_rounds: Rounds in which the backbone is trained; fewer than the first task has, so
            that its images can be summed up after.
        ridge: r over the mean diagonal of G.
        logit_scale: Multiplies the solution, whose outputs lie around [0, 1]: changes no decision,
            but the entropy that detection looks at.
        head_loss: Of the warm-up: ``ce`` or ``bce``.
    """

    uploads: ClassVar[tuple[str, ...]] = (
        "number of images and sum of frozen features of each of its classes, once per task",
        "Gram matrix of these features over all of its images",
    )

    warm_up_rounds: int = 6
    ridge: float = 0.01
    logit_scale: float = 10.0
    head_loss: losses.HeadLoss = "ce"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.warm_up_rounds < 1:
            raise ValueError(
                f"warm_up_rounds is {self.warm_up_rounds}; allowed: 1 or more, and fewer than a "
                "task has rounds"
            )
        for name in ("ridge", "logit_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: above 0")

    @property
    def upload_kinds(self) -> UploadKinds:
        """Of what kind its uploads are."""
        return UploadKinds(
            {_GRAM: ("feature_statistics",), _SUMS: ("feature_statistics", "class_counts")}
        )

    @property
    def replays(self) -> bool:
        """Exemplars are not needed: their images have been counted."""
        return False

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return cross-entropy in the warm-up; afterwards a loss that moves nothing."""
        if _FROZEN in context.extras:
            return {"classification": 0.0 * network.head.bias.sum()}
        logits = network(batch.images).logits
        return {"classification": losses.plain_classification(logits, batch.rows, self.head_loss)}

    def finish_local(self, network: IncrementalNetwork, context: LocalContext) -> UploadAndKept:
        """Upload the sums of what has not been counted yet, and keep those of the whole task."""
        if _FROZEN not in context.extras or context.images is None:
            return {}, context.kept
        images, rows = context.images()
        now = sums_of(network, images, rows, context.num_rows)
        task_rows = torch.tensor(context.groups[-1])
        before = _kept_sums(context.kept, task_rows, now)
        kept = {_GRAM: now.gram, _SUMS: now.class_sums, _ROWS: task_rows}
        if torch.equal(now.class_sums, before.class_sums):
            return {}, kept
        return {_GRAM: now.gram - before.gram, _SUMS: now.class_sums - before.class_sums}, kept

    def broadcast(
        self, server: ServerState, old_model: StoredModel | None, twin_id: str
    ) -> Broadcast:
        """Return the message, which says whether the backbone is frozen."""
        message = super().broadcast(server, old_model, twin_id)
        return (
            replace(message, extras={_FROZEN: torch.ones(1)})
            if self._is_frozen(server)
            else message
        )

    def merge(self, own: ServerState, arrived: Sequence[Arrived]) -> ServerState:
        """Return the mean of the models in the warm-up; afterwards own weights with a new head."""
        if not self._is_frozen(own):
            return super().merge(own, arrived)
        sums = _collected(own, [each.update for each in arrived])
        if not sums.class_sums.any():
            return own
        solution = self.scaled_solution(sums)
        head = {
            "head.weight": solution[:-1].T.float().contiguous(),
            "head.bias": solution[-1].float(),
        }
        return replace(
            own,
            weights={**own.weights, **head},
            kept={**own.kept, _GRAM: sums.gram, _SUMS: sums.class_sums},
        )

    def scaled_solution(self, sums: "FeatureSums") -> Float[Tensor, "E C"]:
        """Return the ridge regression from features to one-hot classes, scaled; last row: bias."""
        shrink = (
            torch.diagonal(sums.gram)[:-1].mean()
            * self.ridge
            * torch.ones(len(sums.gram), dtype=torch.float64)
        )
        shrink[-1] = 0.0
        solution: Tensor = torch.linalg.solve(sums.gram + torch.diag(shrink), sums.class_sums.T)
        return self.logit_scale * solution

    def _is_frozen(self, server: ServerState) -> bool:
        return server.round >= self.warm_up_rounds


@plain_dataclass(frozen=True)
class FeatureSums:
    """Sums over images; those of two sets of images add up to those of both.

    Args:
        gram: G, features with a 1 appended, E = D + 1.
        class_sums: S', per class; the last column counts the class's images.
    """

    gram: Float[Tensor, "E E"]
    class_sums: Float[Tensor, "C E"]


def sums_of(
    network: IncrementalNetwork, images: Float[Tensor, "N c H W"], rows: Tensor, classes: int
) -> FeatureSums:
    """Return the sums over a twin's images, in float64: sums of any split of them agree."""
    network.eval()
    with torch.no_grad():
        parts = [network(part).features for part in torch.split(images, _IMAGES_AT_ONCE)]
    features = torch.cat(parts).double()
    features = torch.cat([features, features.new_ones(len(features), 1)], 1)
    class_sums = features.new_zeros(classes, features.shape[1]).index_add_(0, rows, features)
    return FeatureSums(features.T @ features, class_sums)


def _kept_sums(kept: Mapping[str, Tensor], task_rows: Tensor, like: FeatureSums) -> FeatureSums:
    """Return what this twin has uploaded of its current task; zeros where it has just begun."""
    if _ROWS in kept and set(kept[_ROWS].tolist()) <= set(
        task_rows.tolist()
    ):  # a young task may have grown
        before = FeatureSums(kept[_GRAM], pad_rows(kept[_SUMS], len(like.class_sums)))
        if bool((before.class_sums[:, -1] <= like.class_sums[:, -1]).all()):
            return before
    return FeatureSums(torch.zeros_like(like.gram), torch.zeros_like(like.class_sums))


def _collected(server: ServerState, updates: Sequence[TwinUpdate]) -> FeatureSums:
    """Return all that was ever uploaded; what does not have the right shape is left out."""
    features, classes = server.weights["head.weight"].shape[1] + 1, num_rows(server.weights)
    gram = server.kept.get(_GRAM, torch.zeros(features, features, dtype=torch.float64))
    class_sums = pad_rows(
        server.kept.get(_SUMS, torch.zeros(0, features, dtype=torch.float64)), classes
    )
    for update in updates:
        own_gram, own_sums = update.upload.get(_GRAM), update.upload.get(_SUMS)
        if (
            own_gram is None
            or own_sums is None
            or own_gram.shape != gram.shape
            or own_sums.shape != class_sums.shape
        ):
            continue
        gram, class_sums = gram + own_gram.double(), class_sums + own_sums.double()
    return FeatureSums(gram, class_sums)
