"""SCAFFOLD: control variates correct each step, so that twins do not drift apart.

Source: Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML
2020, arXiv:1910.06378, algorithm 1, option II, with a global step size of 1. The corrected gradient
``g + c - c_i`` is the gradient of ``loss + <c - c_i, y>``; for a constant gradient g, SGD with
momentum moves by ``S g``, S as ``total_step`` says, so S stands where the paper has ``K * learning
rate``. Control variates belong to parameters; batch normalisation's statistics are averaged as in
FedAvg. Where the head has grown they are 0.

The server knows w, w_i and c: a twin that sends the number S has told it ``c_i+ - c_i = (w - w_i) /
S - c``, and uploads nothing more. Its first round is FedAvg (``mean: equal``), bit for bit: all
control variates are 0. ``training.gradient_clip`` clips the corrected gradient, and weight decay is
part of it; the paper has neither.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import fsum
from typing import ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from federation.aggregation.means import Arrived, Mean, matched_updates
from federation.methods.averaging import AveragingMethod
from federation.server import ServerState
from incremental.head import Weights, num_rows
from incremental.network import IncrementalNetwork
from incremental.proxy import StoredModel
from incremental.weight_tensors import labelled, padded, parameters_of, with_label
from twin import losses
from twin.batches import TrainingBatch
from twin.messages import Broadcast, TwinUpdate
from twin.objective import LocalContext, Terms, UploadAndKept
from twin.privacy.upload_policy import UploadKinds

_ZERO = torch.zeros(())


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SCAFFOLD(AveragingMethod):
    """SCAFFOLD.

    Args:
        num_twins: N of the paper: all twins, so that c moves by the share of those that took part.
            0: those whose updates have been accepted so far, which keeps c the mean of their c_i
            while hospitals join; never less than those.
        mean: Of the models: ``equal`` (the paper) or ``by_images``. Control variates always count
            the same.
    """

    uploads: ClassVar[tuple[str, ...]] = (
        "one number: the sum of the step sizes of the local training",
    )

    num_twins: int = 0
    mean: Mean = "equal"

    def __post_init__(self) -> None:
        """Check the range."""
        if self.num_twins < 0:
            raise ValueError(
                f"num_twins is {self.num_twins}; allowed: 1 or more, or 0 for those seen so far"
            )

    @property
    def upload_kinds(self) -> UploadKinds:
        """Of what kind its uploads are."""
        return UploadKinds({"total_step": ("control_variates",)})

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        """Return cross-entropy and the linear term whose gradient is the correction."""
        logits = network(batch.images).logits
        terms = {"classification": losses.plain_classification(logits, batch.rows, self.head_loss)}
        correction = context.cached("correction", lambda: correction_of(context))
        if correction:
            # y - w instead of y: the same gradient, and a value that starts at 0.
            moved = {
                name: value - context.global_weights[name]
                for name, value in network.named_parameters()
            }
            terms["correction"] = losses.inner_product(moved, correction)
        return terms

    def finish_local(self, network: IncrementalNetwork, context: LocalContext) -> UploadAndKept:
        """Upload the total step and keep ``c_i+ = c_i - c + (w - w_i) / S``."""
        step = total_step(context)
        correction = correction_of(context)
        control = {
            name: (
                (context.global_weights[name] - value.detach()) / step - correction.get(name, _ZERO)
            ).contiguous()
            for name, value in network.named_parameters()
        }
        return {"total_step": torch.tensor(step, dtype=torch.float64)}, labelled("control", control)

    def broadcast(
        self, server: ServerState, old_model: StoredModel | None, twin_id: str
    ) -> Broadcast:
        """Return the message with c beside the model."""
        control = padded(with_label("control", server.kept), num_rows(server.weights))
        return replace(
            super().broadcast(server, old_model, twin_id), extras=labelled("control", control)
        )

    def merge(self, own: ServerState, arrived: Sequence[Arrived]) -> ServerState:
        """Return the mean of the models, with c moved by what each c_i moved.

        An upload that is no step moves nothing.
        """
        usable = [
            each
            for each in matched_updates(own.weights, own.class_names, arrived)
            if _is_step(each.upload.get("total_step"))
        ]
        seen = {name for name in own.kept if name.startswith("seen/")}
        now_seen = sorted(seen | {f"seen/{each.twin_id}" for each in usable})
        kept: dict[str, Tensor] = dict.fromkeys(now_seen, torch.tensor(True))
        if usable:
            kept |= labelled(
                "control",
                self._moved(
                    own,
                    usable,
                    max(len(seen), self.num_twins),
                    max(len(now_seen), self.num_twins),
                ),
            )
        return replace(super().merge(own, arrived), kept={**own.kept, **kept})

    def _moved(
        self, server: ServerState, updates: Sequence[TwinUpdate], before: int, after: int
    ) -> Weights:
        """Return c+ = (before * c + sum of (c_i+ - c_i)) / after: algorithm 1, line 17."""
        control = padded(with_label("control", server.kept), num_rows(server.weights))
        moved = {}
        for name, value in parameters_of(server.weights).items():
            own = control.get(name, torch.zeros_like(value)).double()
            changes = [
                (value.double() - each.weights[name].double()) / float(each.upload["total_step"])
                - own
                for each in updates
            ]
            moved[name] = ((before * own + torch.stack(changes).sum(0)) / after).to(value.dtype)
        return moved


def correction_of(context: LocalContext) -> Weights:
    """Return ``c - c_i``, one tensor for each parameter; nothing while both are 0."""
    everyone = padded(with_label("control", context.extras), context.num_rows)
    own = padded(with_label("control", context.kept), context.num_rows)
    if not everyone and not own:
        return {}
    return {
        name: everyone.get(name, _ZERO) - own.get(name, _ZERO)
        for name in parameters_of(context.global_weights)
    }


def total_step(context: LocalContext) -> float:
    """Return S: how far a constant gradient of 1 moves a weight in this round.

    Step k of SGD with momentum rho moves by ``learning rate * (1 - rho^k) / (1 - rho)``. Without
    momentum S is the sum of the learning rates; with one learning rate it is ``(K - rho (1 - rho^K)
    / (1 - rho)) / (1 - rho) * learning rate``, as in the notes on methods.
    """
    each = context.num_steps // len(context.learning_rates)
    rates = [rate for rate in context.learning_rates for _ in range(each)]
    rho = context.momentum
    return fsum(rate * (1 - rho**step) / (1 - rho) for step, rate in enumerate(rates, 1))


def _is_step(value: Tensor | None) -> bool:
    """Whether an upload is one number above 0: it divides, and comes from outside."""
    return value is not None and value.shape == () and value.is_floating_point() and bool(value > 0)
