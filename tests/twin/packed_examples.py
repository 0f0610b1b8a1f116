"""Weights to pack, and a network with batch normalisation."""

from typing import Any

import torch
from torch import Generator, Tensor

from incremental.head import grow_head
from incremental.network import NetworkConfig, initial_weights
from incremental.weight_tensors import parameters_of
from twin.compression import CompressionConfig, pack, unpack

KINDS = ("float16", "int8", "top_k")
BOTH = [(kind, feedback) for kind in KINDS for feedback in (True, False)]
NORMED = NetworkConfig(backbone="resnet18", width=4, image_size=16, channels=1, norm="batch")


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def some_weights(rows: int = 3) -> dict[str, Tensor]:
    return grow_head(initial_weights(NORMED, 1), rows, generator())


def moved(reference: dict[str, Tensor], seed: int, size: float = 0.1) -> dict[str, Tensor]:
    """Return weights a random change away; statistics and counters have followed the data."""
    draws = generator(seed)
    weights = {}
    for name, value in reference.items():
        step = size * torch.randn(value.shape, generator=draws)
        weights[name] = value + step if value.is_floating_point() else value + 7
    return weights


def changes(weights: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weights[name] - reference[name] for name in parameters_of(reference)}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def pack_and_unpack(
    weights: dict[str, Tensor],
    reference: dict[str, Tensor],
    config: CompressionConfig,
    residual: dict[str, Any] | None = None,
    seed: int = 0,
) -> tuple[Any, ...]:
    packed, left = pack(weights, reference, config, residual or {}, generator(seed))
    return unpack(packed, reference), left, packed
