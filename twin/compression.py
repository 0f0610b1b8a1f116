"""Compression of updates: float16, int8 or top-k changes, with error feedback.

``pack`` turns weights into a few tensors, ``unpack`` turns them back. Server and twin call the same
``unpack`` on the same reference, so both hold the same bits, in a simulation as in a deployment.

The change ``local - global`` of all parameters is packed as one vector, in the order of the sorted
names, since a dictionary's order may be lost on the way. Statistics of batch normalisation and
integers travel as they are: a variance in eight bits makes a network useless, and they are under a
thousandth of the bytes.

Sources: int8: Alistarh et al., QSGD, NeurIPS 2017, section 3.1, with the largest value as the norm
and one scale for each output channel, which halves the error of one scale for each tensor for 0.2
to 2 % more bytes. top_k: Stich et al., Sparsified SGD with Memory, NeurIPS 2018, algorithm 1. Error
feedback: Karimireddy et al., Error Feedback Fixes SignSGD, ICML 2019, algorithm 2; after several
local steps: Basu et al., Qsparse-local-SGD, NeurIPS 2019, algorithm 1. With error feedback int8
rounds to the nearest value, as the error is sent later; without, it rounds at random, so that the
expectation is right.

Limits of error feedback: an update that the server rejected counts as sent, and a twin's residual
dates from the last round in which it trained.
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

from incremental.head import Weights
from incremental.weight_tensors import padded, parameters_of

Kind = Literal["none", "float16", "int8", "top_k"]
_EXACT, _VALUES, _SCALES, _INDICES = "exact/", "values", "scales", "indices"
_MAX_FLOAT16 = torch.finfo(torch.float16).max
_INT8_STEPS = 127  # on each side of 0


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CompressionConfig:
    """How updates are compressed.

    Args:
        kind: ``none``: the weights themselves; ``float16``: half the bytes; ``int8``: a quarter;
            ``top_k``: the largest changes alone.
        share: Share of all parameters that ``top_k`` sends.
        error_feedback: The twin keeps what was not sent and adds it to its next update.
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
    """Weights that cannot be packed, or packed weights that cannot be unpacked."""


@dataclass(frozen=True)
class PackedWeights:
    """Compressed weights, as they travel.

    Args:
        kind: How they were packed.
        tensors: For all parameters ``values`` and, by kind, ``scales`` or ``indices``;
            ``exact/<name>`` for everything else.
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
    """Return the compressed change of the weights, and the residual to add the next time.

    Args:
        weights: Local model; finite.
        reference: Global model that it started from; the receiver has it.
        config: Kind of compression.
        residual: What the last call returned; empty in the first round. It counts as 0 in rows
            that the head has gained since.
        generator: Draws random rounding.

    Raises:
        CompressionError: If ``kind`` is ``none``, or weights or residual do not fit the reference.
    """
    names = _names(reference)
    change = _flat(weights, names) - _flat(reference, names)
    if residual:
        change += _flat(_padded_residual(residual, reference, names), names)
    if config.kind == "float16":
        tensors = {_VALUES: _to_float16(change)}
    elif config.kind == "int8":
        lengths = _scale_lengths(reference, names)
        tensors = _to_int8(change, lengths, None if config.error_feedback else generator)
    elif config.kind == "top_k":
        tensors = _to_top_k(change, ceil(config.share * len(change)))
    else:
        raise CompressionError(
            f"compression.kind is {config.kind!r}, which packs nothing; allowed: float16, int8, "
            "top_k; send the weights"
        )
    exact = {f"{_EXACT}{name}": value for name, value in weights.items() if name not in names}
    packed = PackedWeights(config.kind, {**tensors, **exact})
    if not config.error_feedback:
        return packed, {}
    return packed, _unflat(change - _packed_change(packed, reference, names), reference, names)


def unpack(packed: PackedWeights, reference: Weights) -> Weights:
    """Return the weights that were packed; the same bits wherever it is called.

    Args:
        packed: Data from outside: it is checked, and nothing larger than the reference is built.
        reference: The global model that was broadcast.

    Raises:
        CompressionError: If it is not what ``pack`` returns for weights like the reference.
    """
    names = _names(reference)
    _check_packed(packed, reference, names)
    changes = _unflat(_packed_change(packed, reference, names), reference, names)
    return {
        name: (value.float() + changes[name]).to(value.dtype)
        if name in changes
        else packed.tensors[f"{_EXACT}{name}"]
        for name, value in reference.items()
    }


def _names(reference: Weights) -> tuple[str, ...]:
    return tuple(sorted(parameters_of(reference)))


def _to_float16(change: Tensor) -> Tensor:
    return change.clamp(-_MAX_FLOAT16, _MAX_FLOAT16).half()  # larger values would become infinite


def _to_int8(
    change: Tensor, lengths: Tensor, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """Return the change in whole steps of each channel's scale.

    Args:
        change: Shape [N].
        lengths: How many parameters share each scale.
        generator: Draws the rounding, right in expectation; none: to the nearest.
    """
    largest = torch.segment_reduce(change.abs(), "max", lengths=lengths, initial=0.0)
    scales = largest / _INT8_STEPS
    steps = change / torch.repeat_interleave(torch.where(scales > 0, scales, 1), lengths)
    whole = (
        steps.round()
        if generator is None
        else (steps + torch.rand(steps.shape, generator=generator)).floor()
    )
    return {_VALUES: whole.clamp(-_INT8_STEPS, _INT8_STEPS).to(torch.int8), _SCALES: scales}


def _to_top_k(change: Tensor, count: int) -> dict[str, Tensor]:
    indices = change.abs().topk(count).indices.sort().values
    return {_INDICES: indices.to(torch.int32), _VALUES: _to_float16(change[indices])}


def _packed_change(
    packed: PackedWeights, reference: Weights, names: tuple[str, ...]
) -> Float[Tensor, " N"]:
    """Return the change of all parameters that packed tensors stand for."""
    values = packed.tensors[_VALUES].float()
    if packed.kind == "int8":
        lengths = _scale_lengths(reference, names)
        return values * torch.repeat_interleave(packed.tensors[_SCALES], lengths)
    if packed.kind == "top_k":
        zeros = values.new_zeros(_num_parameters(reference, names))
        return zeros.index_copy_(0, packed.tensors[_INDICES].long(), values)
    return values


def _check_packed(packed: PackedWeights, reference: Weights, names: tuple[str, ...]) -> None:
    """Raise unless packed tensors are exactly those of the kind and the reference."""
    if packed.kind not in ("float16", "int8", "top_k"):
        raise CompressionError(
            f"packed weights are of kind {packed.kind!r}; allowed: float16, int8, top_k"
        )
    count, tensors = _num_parameters(reference, names), packed.tensors
    sent = (
        len(tensors[_VALUES].flatten()) if packed.kind == "top_k" and _VALUES in tensors else count
    )
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        _VALUES: (torch.int8 if packed.kind == "int8" else torch.float16, (sent,))
    }
    if packed.kind == "int8":
        expected[_SCALES] = (torch.float32, (len(_scale_lengths(reference, names)),))
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


def _scale_lengths(reference: Weights, names: tuple[str, ...]) -> Tensor:
    """Return how many parameters share each scale: an output channel's, or a whole vector's."""
    lengths = []
    for name in names:
        shape = reference[name].shape
        lengths += [prod(shape[1:])] * shape[0] if len(shape) > 1 else [shape.numel()]
    return torch.tensor(lengths)


def _padded_residual(
    residual: Mapping[str, Tensor], reference: Weights, names: tuple[str, ...]
) -> Weights:
    fitting = padded(residual, len(reference.get("head.bias", ())))
    if {name: value.shape for name, value in fitting.items()} != {
        name: reference[name].shape for name in names
    }:
        raise CompressionError(
            "the compression residual in this twin's state belongs to another network; allowed: "
            "the shapes of the global model; start the twin with a new state"
        )
    return fitting


def _flat(weights: Mapping[str, Tensor], names: tuple[str, ...]) -> Float[Tensor, " N"]:
    return torch.cat([weights[name].reshape(-1).float() for name in names])


def _unflat(values: Float[Tensor, " N"], reference: Weights, names: tuple[str, ...]) -> Weights:
    parts = torch.split(values, [reference[name].numel() for name in names])
    return {name: part.view(reference[name].shape) for name, part in zip(names, parts, strict=True)}


def _num_parameters(reference: Weights, names: tuple[str, ...]) -> int:
    return sum(reference[name].numel() for name in names)
