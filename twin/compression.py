"""Compression of updates: float16, int8 or top-k changes, with error feedback.

Knows no twin, no method and no message: weights go in, a handful of tensors come out, and
``unpack`` makes weights of them again. Server and twin call the same ``unpack`` on the same
reference, so both hold the same bits, in a simulation as in a deployment.

What is packed is the change ``local - global`` of what training moves (floating parameters), all of
it as one vector in the order of the names (a dictionary's own order may not survive a journey).
Batch normalisation's statistics follow the data and not the training: a variance pressed into eight
bits is a network that answers nonsense, and they are under a thousandth of the bytes. They and
every integer travel as they are.

Sources: int8: Alistarh et al., QSGD, NeurIPS 2017, section 3.1, with the largest value as the norm
and one scale for each output channel. top_k: Stich et al., Sparsified SGD with Memory, NeurIPS
2018, algorithm 1. Error feedback: Karimireddy et al., Error Feedback Fixes SignSGD, ICML 2019,
algorithm 2; after several local steps: Basu et al., Qsparse-local-SGD, NeurIPS 2019, algorithm 1.
With memory, rounding is to the nearest, whose error is the smaller one and is made good later;
without, it is drawn, so that what is sent is right in expectation. One scale for each channel
instead of each tensor halves the error for 0.2 to 2 % more bytes.

What error feedback cannot know: an update that the server turned away counts as sent, and what a
twin remembers is as old as its last turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Literal

import pydantic.dataclasses
import torch
from jaxtyping import Float
from pydantic import ConfigDict
from torch import Tensor

from incremental.head import HEAD_ROWS, Weights, pad_rows

Kind = Literal["none", "float16", "int8", "top_k"]
_EXACT, _VALUES, _SCALES, _INDICES = "exact/", "values", "scales", "indices"
_LARGEST_HALF = torch.finfo(torch.float16).max
_STEPS = 127  # of an int8 on each side of 0


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CompressionConfig:
    """How the change of the weights travels up.

    Args:
        kind: ``none``: the weights themselves; ``float16``: half the bytes; ``int8``: a quarter;
            ``top_k``: the largest changes alone.
        share: Of all parameters, how many ``top_k`` sends.
        error_feedback: What was not sent is kept on the twin and added to its next update.
    """

    kind: Kind = "none"
    share: float = 0.01
    error_feedback: bool = True

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.share <= 1:
            raise ValueError(
                f"share is {self.share}; allowed: above 0 and up to 1 (0.01 sends the largest "
                "hundredth of the changes)"
            )


class CompressionError(ValueError):
    """Packed weights that cannot be unpacked, or weights that cannot be packed.

    What, got, allowed.
    """


@dataclass(frozen=True)
class PackedWeights:
    """Weights on the wire.

    Args:
        kind: How they were packed.
        tensors: ``values`` and, by kind, ``scales`` or ``indices``, over all parameters; and
            ``exact/<name>`` of everything else.
    """

    kind: str
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def pack(
    weights: Weights,
    reference: Weights,
    config: CompressionConfig,
    residual: Mapping[str, Tensor],
    generator: torch.Generator,
) -> tuple[PackedWeights, Weights]:
    """Return the change of the weights in fewer bytes, and what has to be made good the next time.

    Args:
        weights: Local model; finite.
        reference: Global model that it started from; the receiver has it.
        config: How.
        residual: What the last call returned; nothing at the beginning. Rows by which the head has
            grown since count 0.
        generator: Draws the rounding, where it is drawn.

    Raises:
        CompressionError: If there is nothing to do, or weights or residual do not belong to the
            reference.
    """
    names = moved_names(reference)
    change = _flat(weights, names) - _flat(reference, names)
    if residual:
        change += _flat(_fitting(residual, reference, names), names)
    if config.kind == "float16":
        tensors = {
            _VALUES: change.clamp(-_LARGEST_HALF, _LARGEST_HALF).half()
        }  # beyond it lies infinity
    elif config.kind == "int8":
        tensors = _to_int8(
            change, _channels(reference, names), None if config.error_feedback else generator
        )
    elif config.kind == "top_k":
        tensors = _largest(change, ceil(config.share * len(change)))
    else:
        raise CompressionError(
            f"compression.kind is {config.kind!r}, which packs nothing; allowed: float16, int8, "
            "top_k; send the weights"
        )
    exact = {f"{_EXACT}{name}": value for name, value in weights.items() if name not in names}
    packed = PackedWeights(config.kind, {**tensors, **exact})
    if not config.error_feedback:
        return packed, {}
    return packed, _unflat(change - _change(packed, reference, names), reference, names)


def unpack(packed: PackedWeights, reference: Weights) -> Weights:
    """Return the weights that were packed; the same bits wherever it is called.

    Args:
        packed: From outside: nothing about it is taken for granted, and nothing larger than the
            reference is made of it.
        reference: The global model that was broadcast.

    Raises:
        CompressionError: If it is not what ``pack`` makes of weights like the reference.
    """
    names = moved_names(reference)
    _check(packed, reference, names)
    moved = _unflat(_change(packed, reference, names), reference, names)
    weights = {}
    for name, value in reference.items():
        weights[name] = (
            (value.float() + moved[name]).to(value.dtype)
            if name in moved
            else packed.tensors[f"{_EXACT}{name}"]
        )
    return weights


def moved_names(weights: Weights) -> tuple[str, ...]:
    """Return the names of what training moves, sorted.

    Floating, and no statistic of batch normalisation.
    """
    return tuple(
        sorted(
            name
            for name, value in weights.items()
            if value.is_floating_point() and "running_" not in name
        )
    )


def _to_int8(
    change: Tensor, channels: Tensor, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """Return whole steps of each channel's scale.

    To the nearest, or drawn so that they are right in expectation.
    """
    largest = torch.segment_reduce(change.abs(), "max", lengths=channels, initial=0.0)
    scales = largest / _STEPS
    steps = change / torch.repeat_interleave(torch.where(scales > 0, scales, 1), channels)
    whole = (
        steps.round()
        if generator is None
        else (steps + torch.rand(steps.shape, generator=generator)).floor()
    )
    return {_VALUES: whole.clamp(-_STEPS, _STEPS).to(torch.int8), _SCALES: scales}


def _largest(change: Tensor, count: int) -> dict[str, Tensor]:
    indices = change.abs().topk(count).indices.sort().values
    return {
        _INDICES: indices.to(torch.int32),
        _VALUES: change[indices].clamp(-_LARGEST_HALF, _LARGEST_HALF).half(),
    }


def _change(
    packed: PackedWeights, reference: Weights, names: tuple[str, ...]
) -> Float[Tensor, " N"]:
    """Return what packed tensors say of the change of all parameters."""
    values = packed.tensors[_VALUES].float()
    if packed.kind == "int8":
        return values * torch.repeat_interleave(
            packed.tensors[_SCALES], _channels(reference, names)
        )
    if packed.kind == "top_k":
        return values.new_zeros(_count(reference, names)).index_copy_(
            0, packed.tensors[_INDICES].long(), values
        )
    return values


def _check(packed: PackedWeights, reference: Weights, names: tuple[str, ...]) -> None:
    """Raise unless packed tensors are exactly what belongs to the kind and the reference."""
    if packed.kind not in ("float16", "int8", "top_k"):
        raise CompressionError(
            f"packed weights are of kind {packed.kind!r}; allowed: float16, int8, top_k"
        )
    count, tensors = _count(reference, names), packed.tensors
    sent = (
        len(tensors[_VALUES].flatten()) if packed.kind == "top_k" and _VALUES in tensors else count
    )
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        _VALUES: (torch.int8 if packed.kind == "int8" else torch.float16, (sent,))
    }
    if packed.kind == "int8":
        expected[_SCALES] = (torch.float32, (len(_channels(reference, names)),))
    if packed.kind == "top_k":
        expected[_INDICES] = (torch.int32, (sent,))
    expected |= {
        f"{_EXACT}{name}": (value.dtype, tuple(value.shape))
        for name, value in reference.items()
        if name not in names
    }
    if tensors.keys() != expected.keys():
        differing = sorted(map(str, tensors.keys() ^ expected.keys()))
        raise CompressionError(
            f"packed weights of kind {packed.kind} have other tensors than expected: "
            f"{', '.join(differing[:3])}"
        )
    for name, (kind, shape) in expected.items():
        value = tensors[name]
        if value.dtype != kind or tuple(value.shape) != shape:
            raise CompressionError(
                f"packed {name} is {value.dtype} {tuple(value.shape)}; allowed: {kind} {shape}"
            )
    for name in (_VALUES, _SCALES):
        if (
            name in tensors
            and tensors[name].is_floating_point()
            and not bool(torch.isfinite(tensors[name]).all())
        ):
            raise CompressionError(f"packed {name} holds numbers that are not finite")
    if packed.kind == "top_k":
        _check_indices(tensors[_INDICES], count)


def _check_indices(indices: Tensor, count: int) -> None:
    if not 1 <= len(indices) <= count:
        raise CompressionError(
            f"packed weights hold {len(indices)} changes; allowed: 1 to {count}, the number of "
            "parameters"
        )
    if (
        int(indices[0]) < 0
        or int(indices[-1]) >= count
        or not bool((indices[1:] > indices[:-1]).all())
    ):
        raise CompressionError(
            f"packed indices are not one rising sequence within 0 and {count - 1}"
        )


def _channels(reference: Weights, names: tuple[str, ...]) -> Tensor:
    """Return how many parameters share each scale.

    Those of an output channel, or all of a vector.
    """
    lengths = []
    for name in names:
        shape = reference[name].shape
        lengths += [prod(shape[1:])] * shape[0] if len(shape) > 1 else [shape.numel()]
    return torch.tensor(lengths)


def _fitting(residual: Mapping[str, Tensor], reference: Weights, names: tuple[str, ...]) -> Weights:
    padded = {
        name: pad_rows(value, len(reference[name])) if name in HEAD_ROWS else value
        for name, value in residual.items()
    }
    if {name: value.shape for name, value in padded.items()} != {
        name: reference[name].shape for name in names
    }:
        raise CompressionError(
            "what this twin remembers of its last updates belongs to another network; start it "
            "with a state of its own"
        )
    return padded


def _flat(weights: Mapping[str, Tensor], names: tuple[str, ...]) -> Float[Tensor, " N"]:
    return torch.cat([weights[name].reshape(-1).float() for name in names])


def _unflat(values: Float[Tensor, " N"], reference: Weights, names: tuple[str, ...]) -> Weights:
    parts = torch.split(values, [reference[name].numel() for name in names])
    return {name: part.view(reference[name].shape) for name, part in zip(names, parts, strict=True)}


def _count(reference: Weights, names: tuple[str, ...]) -> int:
    return sum(reference[name].numel() for name in names)
