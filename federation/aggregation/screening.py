"""Screening of updates: which are rejected, and why; a rejected update never stops a round.

An update comes from outside. Here it is judged alone, against what was asked for;
``federation.robust`` judges updates against each other. What is cheap to see is looked at first, so
that a huge tensor of the wrong shape costs nothing. That bytes are a message at all, and how large
it is, whoever reads them has checked before.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite

import pydantic.dataclasses
import torch
from pydantic import ConfigDict
from torch import Tensor

from federation.server import ServerState
from incremental.head import Weights
from incremental.weight_tensors import parameters_of
from twin.messages import TwinUpdate, num_bytes

_ALWAYS_ALLOWED = (
    16 * 2**20
)  # bytes of upload: a small network's prototypes are larger than the network
_MOST_METRICS = 64
_MOST_COUNTED = 2**53  # a counter beyond it is not exact in the mean
_LONGEST = 60  # characters of a name from outside that are repeated
_NUMBERS = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ScreeningConfig:
    """Limits of an acceptable update.

    Args:
        max_relative_change: Largest norm of (local - global) parameters as a multiple of the global
            norm.
        max_images: Most images that a twin may claim to have trained on: its weight in a mean by
            images.
        max_relative_upload: Largest size of what is uploaded besides weights, as a multiple of the
            global model's; 16 MiB always pass.
    """

    max_relative_change: float = 10.0
    max_images: int = 1_000_000
    max_relative_upload: float = 4.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("max_relative_change", "max_relative_upload"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: above 0")
        if self.max_images < 1:
            raise ValueError(f"max_images is {self.max_images}; allowed: 1 or more")


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
    updates: Sequence[TwinUpdate],
    server: ServerState,
    chosen: Collection[str],
    uploads: Collection[str],
    config: ScreeningConfig,
    sums: bool = False,
) -> tuple[tuple[TwinUpdate, ...], tuple[Rejection, ...]]:
    """Part updates into those that may be aggregated and those that may not.

    Args:
        updates: What came back.
        server: The state that was broadcast: class list, names, shapes and types must be its own.
        chosen: Twins that were asked; the first answer of each counts.
        uploads: Names, up to the first "/", of what the method declares to upload.
        config: Limits.
        sums: Updates are sums, made on the server by secure aggregation; else none may claim to be
            one.
    """
    accepted, rejected = [], []
    answered: set[str] = set()
    for update in updates:
        reason = (
            "answers a second time; its first answer counts" if update.twin_id in answered else None
        )
        reason = reason or (
            "was not asked to train"
            if not set(update.summed or (update.twin_id,)) <= set(chosen)
            else None
        )
        reason = reason or ("claims to be a sum" if update.summed and not sums else None)
        reason = reason or _objection(update, server, uploads, config)
        answered.add(update.twin_id)
        if reason is None:
            accepted.append(update)
        else:
            rejected.append(Rejection(update.twin_id, reason))
    return tuple(accepted), tuple(rejected)


def parameter_norm(weights: Weights, less: Weights | None = None) -> float:
    """Return the norm of a model's parameters, or of their difference from another's."""
    squares = [
        (value.double() - (0 if less is None else less[name].double())).square().sum()
        for name, value in parameters_of(weights).items()
    ]
    return float(torch.stack(squares).sum().sqrt())


def _objection(
    update: TwinUpdate, server: ServerState, uploads: Collection[str], config: ScreeningConfig
) -> str | None:
    if update.round != server.round:
        return f"belongs to round {update.round}; this is round {server.round}"
    most = config.max_images * max(len(update.summed), 1)
    if not 1 <= update.num_images <= most:
        return f"claims to be trained on {update.num_images} images; allowed: 1 to {most}"
    if update.class_names != server.class_names:
        return (
            f"takes the rows of the head for {_shown(update.class_names)}; the global model's "
            f"are {_shown(server.class_names)}"
        )
    return (
        _misfit(update.weights, server.weights)
        or _bad_upload(update.upload, uploads, server.weights, config)
        or _bad_number(update)
        or _too_far(update.weights, server.weights, config)
    )


def _misfit(weights: Weights, like: Weights) -> str | None:
    if weights.keys() != like.keys():
        odd = _shown(sorted(weights.keys() ^ like.keys()))
        return f"has other tensors than the global model: {odd}"
    for name, expected in like.items():
        value = weights[name]
        if value.shape != expected.shape or value.dtype != expected.dtype or not _is_plain(value):
            return f"{name} is {_kind(value)}; the global model's is {_kind(expected)}"
    return None


def _bad_upload(
    upload: Mapping[str, Tensor],
    declared: Collection[str],
    weights: Weights,
    config: ScreeningConfig,
) -> str | None:
    undeclared = sorted(name for name in upload if name.partition("/")[0] not in declared)
    if undeclared:
        return f"uploads what the method does not declare: {_shown(undeclared)}"
    for name, value in upload.items():
        if value.dtype not in _NUMBERS or not _is_plain(value):
            return f"upload {_shown([name])} is {_kind(value)}; allowed: plain numbers"
    size, limit = (
        num_bytes(upload),
        max(config.max_relative_upload * num_bytes(weights), _ALWAYS_ALLOWED),
    )
    if size > limit:
        return (
            f"uploads {size / 1e6:.1f} MB besides weights; allowed: {limit / 1e6:.1f} MB, see "
            "max_relative_upload"
        )
    return None


def _bad_number(update: TwinUpdate) -> str | None:
    for name, value in (*update.weights.items(), *update.upload.items()):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return f"{_shown([name])} holds values that are not finite"
    for name, value in update.weights.items():
        if name.endswith("running_var") and bool((value < 0).any()):
            return f"{name} holds a variance below 0"
        if (
            not value.is_floating_point()
            and value.numel()
            and not 0 <= int(value.min()) <= int(value.max()) <= _MOST_COUNTED
        ):
            return f"{name} holds what is no count"
    odd = [name for name, value in update.metrics.items() if not isfinite(value)]
    if odd or len(update.metrics) > _MOST_METRICS:
        return (
            f"reports {len(update.metrics)} metrics, of which not finite: "
            f"{_shown(odd) or 'none'}; allowed: {_MOST_METRICS}, all finite"
        )
    return None


def _too_far(weights: Weights, like: Weights, config: ScreeningConfig) -> str | None:
    change, size = parameter_norm(weights, like), parameter_norm(like)
    if change <= config.max_relative_change * size:
        return None
    times = change / size if size else inf
    return f"changed by {times:.1f} times the global norm; allowed: {config.max_relative_change:g}"


def _is_plain(value: Tensor) -> bool:
    """Whether each place holds a number: a sparse or remote tensor has a shape as well."""
    return value.layout is torch.strided and value.device.type == "cpu"


def _kind(value: Tensor) -> str:
    return f"{value.dtype} {tuple(value.shape)}" + (
        "" if _is_plain(value) else f" ({value.layout} on {value.device.type})"
    )


def _shown(names: Sequence[str]) -> str:
    """Return a few names from outside as a log may show them: short, no control characters."""
    shown = [repr(name[:_LONGEST])[1:-1] for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
