"""Tensors as one safetensors block, and back.

The format is that of safetensors (8 bytes of length, JSON header, data), so the library reads what
is written here. It is read here and not by the library because a block from another machine is to
be refused for more: tensors that overlap or leave gaps, names that stand twice, more tensors or
dimensions than allowed, bytes that are neither true nor false. Writing copies no tensor that is
contiguous; reading copies each once, into memory of its own.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from federation.flare.record_limits import Limits, check_keys, check_text, parse_json, refusal

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_METADATA = "__metadata__"  # means something else than a tensor in the format
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in the data [bytes], and what it is."""

    begin: int
    end: int
    dtype: torch.dtype
    shape: tuple[int, ...]


def pieces(tensors: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """Return the block of these tensors, in their order, as pieces to be joined.

    Raises:
        RecordError: If one has a type or a name that the format does not have.
    """
    header: dict[str, Any] = {}
    data: list[bytes | memoryview] = []
    begin = 0
    for name, tensor in tensors.items():
        if name == _METADATA:
            raise refusal(
                "the name of a tensor",
                name,
                "any but this, which means something else in safetensors",
                "give it another name",
            )
        dtype, shape, raw = _described(name, tensor)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + len(raw)]}
        data.append(raw)
        begin += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (
        -len(text) % 8
    )  # so that the data begins where a mapped file has aligned numbers
    return [_LENGTH.pack(len(text)), text, *data]


def read(block: memoryview, limits: Limits) -> dict[str, Tensor]:
    """Return the tensors of a block, in its order.

    Args:
        block: All of it.
        limits: What it may hold at most.

    Raises:
        RecordError: If it is anything but a block as ``pieces`` writes it.
    """
    if len(block) < _LENGTH.size:
        raise refusal("the block of tensors", f"{len(block)} bytes", f"at least {_LENGTH.size}")
    (length,) = _LENGTH.unpack(block[: _LENGTH.size])
    if length > min(limits.header_bytes, len(block) - _LENGTH.size):
        raise refusal(
            "the header of the tensors",
            f"{length} bytes",
            f"at most {limits.header_bytes}, and no more than there are",
        )
    header = parse_json(
        bytes(block[_LENGTH.size : _LENGTH.size + length]), "the header of the tensors"
    )
    data = block[_LENGTH.size + length :]
    if len(header) > limits.tensors:
        raise refusal("the block of tensors", f"{len(header)} tensors", f"at most {limits.tensors}")
    places = {
        check_text(name, "the name of a tensor", limits): _place(name, entry, limits)
        for name, entry in header.items()
    }
    end = 0
    for name, place in places.items():
        if place.begin != end:
            raise refusal(
                f"tensor {name}", f"at byte {place.begin}", f"{end}, where the one before it ends"
            )
        end = place.end
    if end != len(data):
        raise refusal(
            "the block of tensors", f"{len(data)} bytes of data", f"{end}, as its header says"
        )
    return {
        name: _tensor(name, place, data) for name, place in places.items()
    }  # here, and not before, memory is taken


def _described(name: str, tensor: Tensor) -> tuple[str, list[int], memoryview]:
    """Return the dtype, the shape and the bytes of a tensor."""
    if tensor.dtype not in _NAMES or tensor.layout is not torch.strided:
        raise refusal(
            f"tensor {name}",
            f"{tensor.dtype} {tensor.layout}",
            f"dense, one of {', '.join(DTYPES)}",
            "convert it",
        )
    dense = tensor.detach().cpu().resolve_neg().contiguous()
    flat = dense.as_strided(
        (dense.numel(),), (1,)
    )  # what has one element or none counts as contiguous whatever its strides
    return _NAMES[tensor.dtype], list(tensor.shape), flat.view(torch.uint8).numpy().data


def _place(name: str, entry: Any, limits: Limits) -> _Place:
    what = f"tensor {name}"
    entry = check_keys(entry, ("dtype", "shape", "data_offsets"), what)
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES or name == _METADATA:
        raise refusal(what, entry["dtype"], f"one of {', '.join(DTYPES)}")
    dtype, shape, offsets = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or len(shape) > limits.dimensions:
        raise refusal(
            f"{what}: shape", shape, f"up to {limits.dimensions} whole numbers, 0 or more"
        )
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise refusal(f"{what}: data_offsets", offsets, "two whole numbers, 0 or more")
    if (
        prod(max(size, 1) for size in shape) * dtype.itemsize > limits.record_bytes
    ):  # an empty tensor has strides as large as this
        raise refusal(f"{what}: shape", shape, f"what fits in {limits.record_bytes} bytes")
    begin, end = offsets
    if end - begin != prod(shape) * dtype.itemsize:
        raise refusal(
            what,
            f"{end - begin} bytes",
            f"{prod(shape) * dtype.itemsize} for {entry['dtype']} {shape}",
        )
    return _Place(begin, end, dtype, tuple(shape))


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(each) is int and 0 <= each < 2**63 for each in value
    )


def _tensor(name: str, place: _Place, data: memoryview) -> Tensor:
    raw = np.frombuffer(data[place.begin : place.end], np.uint8)
    if place.dtype is torch.bool and raw.max(initial=0) > 1:
        raise refusal(f"tensor {name}", f"a truth value of {raw.max()}", "0 or 1")
    tensor = torch.empty(place.shape, dtype=place.dtype)
    tensor.reshape(-1).view(torch.uint8).numpy()[:] = raw
    return tensor
