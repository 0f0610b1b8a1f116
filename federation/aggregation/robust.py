"""Robust aggregation: median, trimmed mean, Krum and norm clipping of the updates of a round.

A rule changes what the method's own mean is taken of, not the mean: a coordinate-wise centre
(median, trimmed mean) takes the place of every update, so that any mean of them, however weighted,
is the centre; Krum leaves out the updates that are far from the others. Before either, the change
of an update can be clipped to a norm. Off by default: the updates pass as they are.

What stands beside the parameters (statistics and counters of batch normalisation, uploads of which
the method takes a mean) is not clipped and has no part in Krum's distances: under Krum its median
over all updates takes its place, or good weights could carry bad statistics.

Sources: Yin, Chen, Ramchandran, Bartlett, Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates, ICML 2018, arXiv:1803.01498, definitions 1 (median) and 2 (trimmed mean).
Blanchard, El Mhamdi, Guerraoui, Stainer, Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent, NeurIPS 2017, arXiv:1703.02757, section 4 (Krum; several chosen: Multi-Krum).
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import ceil, inf
from typing import Literal

import pydantic.dataclasses
import torch
from pydantic import ConfigDict
from torch import Tensor

from federation.aggregation.screening import Rejection, parameter_norm
from federation.server import ServerState
from incremental.head import Weights
from incremental.weight_tensors import parameters_of
from twin.messages import TwinUpdate
from twin.privacy.upload_policy import UploadKind, UploadKinds

# Each twin's own, which the server keeps side by side: they have no centre.
_COLLECTED: UploadKind = "prototype_gradients"

Rule = Literal["mean", "median", "trimmed_mean", "krum"]


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RobustConfig:
    """How updates are defended against each other.

    Args:
        rule: ``mean``: the method's own; ``median`` or ``trimmed_mean``, by coordinates; ``krum``.
        num_byzantine: f, hostile twins that a round must withstand. Krum takes 2 f + 3 updates, and
            in a round with fewer the median is taken instead; a round with fewer than the 2 f + 1
            that median and trimmed mean take leaves the model as it was.
        trim_share: beta, share of the values that the trimmed mean leaves out at either end of each
            coordinate; never fewer than f.
        num_selected: Updates that Krum chooses; none, and at most: n - f - 2 of n.
        clip_norm: Largest norm of an update's change of parameters, longer ones are shortened to
            it; none: no limit.
    """

    rule: Rule = "mean"
    num_byzantine: int = 1
    trim_share: float = 0.2
    num_selected: int | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.num_byzantine < 0:
            raise ValueError(f"num_byzantine is {self.num_byzantine}; allowed: 0 or more")
        if not 0 <= self.trim_share < 0.5:
            raise ValueError(
                f"trim_share is {self.trim_share}; allowed: 0 to below 0.5 (at 0.5 nothing would "
                "be left)"
            )
        if self.num_selected is not None and self.num_selected < 1:
            raise ValueError(
                f"num_selected is {self.num_selected}; allowed: 1 or more, or none for as many as "
                "Krum vouches for"
            )
        if self.clip_norm is not None and not 0 < self.clip_norm < inf:
            raise ValueError(
                f"clip_norm is {self.clip_norm}; allowed: above 0, or none for no limit"
            )

    @property
    def is_off(self) -> bool:
        """Updates pass as they are."""
        return self.rule == "mean" and self.clip_norm is None

    @property
    def least_updates(self) -> int:
        """Updates below which no rule withstands f hostile ones: there is no majority."""
        return 1 if self.rule == "mean" else 2 * self.num_byzantine + 1

    def rule_for(self, count: int) -> Rule:
        """Return the rule for a round of so many updates: the median where Krum lacks updates."""
        return "median" if self.rule == "krum" and count < 2 * self.num_byzantine + 3 else self.rule

    def check_possible(self, twins_per_round: int) -> None:
        """Check that a round can have enough updates, and Krum enough to choose from.

        Raises:
            ValueError: If no round ever could.
        """
        least = 2 * self.num_byzantine + 3 if self.rule == "krum" else self.least_updates
        if twins_per_round < least:
            raise ValueError(
                f"robust.rule is {self.rule!r} against num_byzantine {self.num_byzantine}, which "
                f"takes {least} updates; "
                f"twins_per_round is {twins_per_round}, so that no round has as many: raise it, or "
                "lower num_byzantine"
            )
        most = twins_per_round - self.num_byzantine - 2
        if self.rule == "krum" and self.num_selected is not None and self.num_selected > most:
            raise ValueError(
                f"robust.num_selected is {self.num_selected}; allowed: 1 to {most}, which is "
                "twins_per_round - num_byzantine - 2 "
                "(more might hold a hostile one), or none for that many"
            )

    def trimmed(self, count: int) -> int:
        """Return how many of ``count`` values are cut at either end; at least one is left."""
        if self.rule != "trimmed_mean":
            return (count - 1) // 2  # the median; beside Krum, too
        return min(max(ceil(self.trim_share * count - 1e-9), self.num_byzantine), (count - 1) // 2)


def defend(
    updates: Sequence[TwinUpdate], server: ServerState, uploads: UploadKinds, config: RobustConfig
) -> tuple[tuple[TwinUpdate, ...], tuple[Rejection, ...]]:
    """Return what the method shall aggregate, and what a rule left out.

    Args:
        updates: What passed the screening.
        server: The state that was broadcast.
        uploads: Of what kind the method's uploads are: of all but prototypes it takes a mean or a
            sum.
        config: The rule.

    Returns:
        The updates, clipped, replaced by their centre or chosen, in their order; and a rejection
        for each that was left out. Where the hostile could be the majority, all are left out: to
        keep the model for a round is no harm, to let them have it is.
    """
    if len(updates) < config.least_updates:
        reason = (
            f"{config.rule} against {config.num_byzantine} hostile twins takes "
            f"{config.least_updates} updates; "
            f"this round has {len(updates)}: the model stays as it was"
        )
        return (), tuple(Rejection(each.twin_id, reason) for each in updates)
    if config.clip_norm is not None:
        updates = [clipped(each, server, config.clip_norm) for each in updates]
    rule = config.rule_for(len(updates))
    if rule == "mean":
        return tuple(updates), ()
    beside = server.weights.keys() - parameters_of(server.weights).keys()
    common = _with_common_weights(
        updates, beside if rule == "krum" else server.weights.keys(), config
    )
    common = _with_common_uploads(common, uploads, config)
    if rule != "krum":
        return tuple(common), ()
    scores = krum_scores([parameters_of(each.weights) for each in updates], config.num_byzantine)
    return _lowest(
        common,
        scores,
        min(config.num_selected or len(updates), len(updates) - config.num_byzantine - 2),
    )


def clipped(update: TwinUpdate, server: ServerState, limit: float) -> TwinUpdate:
    """Return an update whose change of parameters has at most this norm; statistics are untouched.

    Source: ``w + (w_i - w) min(1, S / |w_i - w|)``; Sun et al., Can You Really Backdoor Federated
    Learning?, 2019, arXiv:1911.07963.
    """
    length = parameter_norm(update.weights, server.weights)
    if length <= limit:
        return update
    shorter = {
        name: (
            value.double() + limit / length * (update.weights[name].double() - value.double())
        ).to(value.dtype)
        for name, value in parameters_of(server.weights).items()
    }
    return replace(update, weights={**update.weights, **shorter})


def trimmed_mean(values: Sequence[Tensor], trim: int) -> Tensor:
    """Return each coordinate's mean without its ``trim`` smallest and largest values.

    Source: Yin et al. 2018, definition 2, with ``trim`` = beta n; the median (definition 1) is what
    trims all but the middle one or two. Means are taken in float64; where one value is left it is
    that value, bit for bit; integers stay integers, rounded.

    Args:
        values: One tensor of each twin, of one shape and type.
        trim: Values left out at either end; twice it is less than there are values.
    """
    left = torch.stack(list(values)).sort(0).values[trim : len(values) - trim]
    if len(left) == 1:
        return left[0].clone()
    mean = left.double().mean(0)
    return mean.to(left.dtype) if left.is_floating_point() else mean.round().to(left.dtype)


def krum_scores(vectors: Sequence[Weights], num_byzantine: int) -> list[float]:
    """Return each vector's sum of squared distances to its n - f - 2 nearest others.

    Source: Blanchard et al. 2017, section 4: ``s(i) = sum over i -> j of |V_i - V_j|^2``.

    Args:
        vectors: Of the same names and shapes; local models as well as their changes, as the model
            they began with is the same.
        num_byzantine: f; there are at least f + 3 vectors.
    """
    squares = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    for name in vectors[0]:
        flat = torch.stack([each[name].double().flatten() for each in vectors])
        squares += torch.stack([(flat - row).square().sum(1) for row in flat])
    others = squares.fill_diagonal_(inf).sort(1).values
    scores: list[float] = others[:, : len(vectors) - num_byzantine - 2].sum(1).tolist()
    return scores


def _lowest(
    updates: Sequence[TwinUpdate], scores: Sequence[float], count: int
) -> tuple[tuple[TwinUpdate, ...], tuple[Rejection, ...]]:
    """Return the updates of the lowest scores, in their order, and a rejection of each other."""
    chosen = sorted(range(len(scores)), key=lambda index: scores[index])[:count]
    highest = max(scores[index] for index in chosen)
    return tuple(each for index, each in enumerate(updates) if index in chosen), tuple(
        Rejection(
            each.twin_id,
            f"krum: too far from the others, score {score:.4g}; chosen are {count} of up to "
            f"{highest:.4g}",
        )
        for index, (each, score) in enumerate(zip(updates, scores, strict=True))
        if index not in chosen
    )


def _with_common_weights(
    updates: Sequence[TwinUpdate], names: Collection[str], config: RobustConfig
) -> list[TwinUpdate]:
    """Return the updates with the centre of each of these tensors in its place."""
    trim = config.trimmed(len(updates))
    common = {name: trimmed_mean([each.weights[name] for each in updates], trim) for name in names}
    return [replace(each, weights={**each.weights, **common}) for each in updates]


def _with_common_uploads(
    updates: Sequence[TwinUpdate], kinds_of: UploadKinds, config: RobustConfig
) -> list[TwinUpdate]:
    """Return the updates with the centre of each averaged upload in its place.

    It is taken over the largest group of twins that sent it in one shape and type; the others lose
    theirs. An upload that fewer than 2 f + 1 sent alike is left out: a hostile twin could be alone
    with it.
    """
    names = sorted(
        {
            name
            for each in updates
            for name in each.upload
            if _COLLECTED not in kinds_of.by_tensor.get(name.partition("/")[0], ())
        }
    )
    uploads = [dict(each.upload) for each in updates]
    for name in names:
        kinds = [(each[name].shape, each[name].dtype) if name in each else None for each in uploads]
        largest = max((kind for kind in kinds if kind is not None), key=kinds.count)
        alike = [
            each.pop(name) for each, kind in zip(uploads, kinds, strict=True) if kind == largest
        ]
        centre = trimmed_mean(alike, config.trimmed(len(alike)))
        for each, kind in zip(uploads, kinds, strict=True):
            if kind == largest and len(alike) > 2 * config.num_byzantine:
                each[name] = centre
            else:
                each.pop(name, None)
    return [replace(each, upload=upload) for each, upload in zip(updates, uploads, strict=True)]
