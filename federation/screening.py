"""Which updates are turned away, and why. Knows no method. A rejected update never stops a round."""

from collections.abc import Sequence
from dataclasses import dataclass

import pydantic.dataclasses
import torch
from pydantic import ConfigDict

from federation.server import ServerState
from incremental.head import Weights
from twin.messages import TwinUpdate


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ScreeningConfig:
    """Limits of an acceptable update.

    Args:
        max_relative_change: Largest norm of (local - global) parameters as a multiple of the global norm.
    """

    max_relative_change: float = 10.0

    def __post_init__(self) -> None:
        """Check the range."""
        if not self.max_relative_change > 0:
            raise ValueError(f"max_relative_change is {self.max_relative_change}; allowed: above 0")


@dataclass(frozen=True)
class Rejection:
    """An update that was turned away.

    Args:
        twin_id: Whose.
        reason: What is wrong with it, in words.
    """

    twin_id: str
    reason: str


def screen(
    updates: Sequence[TwinUpdate], server: ServerState, config: ScreeningConfig
) -> tuple[tuple[TwinUpdate, ...], tuple[Rejection, ...]]:
    """Part updates into those that may be aggregated and those that may not.

    Args:
        updates: What came back.
        server: The state that was broadcast: names, shapes and types must be its weights'.
        config: Limits.
    """
    accepted, rejected = [], []
    for update in updates:
        reason = _objection(update, server, config)
        if reason is None:
            accepted.append(update)
        else:
            rejected.append(Rejection(update.twin_id, reason))
    return tuple(accepted), tuple(rejected)


def _objection(update: TwinUpdate, server: ServerState, config: ScreeningConfig) -> str | None:
    if update.round != server.round:
        return f"belongs to round {update.round}; this is round {server.round}"
    if update.num_images < 1:
        return f"claims to be trained on {update.num_images} images"
    if update.weights.keys() != server.weights.keys():
        differing = sorted(update.weights.keys() ^ server.weights.keys())
        return f"has other tensors than the global model: {', '.join(differing[:3])}"
    for name, like in server.weights.items():
        value = update.weights[name]
        if value.shape != like.shape or value.dtype != like.dtype:
            return f"{name} is {value.dtype} {tuple(value.shape)}; the global model's is {like.dtype} {tuple(like.shape)}"
    for name, value in (*update.weights.items(), *update.upload.items()):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return f"{name} holds values that are not finite"
    change, size = _norm(update.weights, server.weights), _norm(server.weights)
    if change > config.max_relative_change * size:
        times = change / size if size else float("inf")
        return f"changed by {times:.1f} times the global norm; allowed: {config.max_relative_change:g}"
    return None


def _norm(weights: Weights, less: Weights | None = None) -> float:
    squares = [
        (value.double() - (0 if less is None else less[name].double())).square().sum()
        for name, value in weights.items()
        if value.is_floating_point() and "running_" not in name  # statistics of batch normalisation follow the data, not the training
    ]
    return float(torch.stack(squares).sum().sqrt())
