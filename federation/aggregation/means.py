"""Means over twins' weights, and what methods share that keep weight-shaped things: pure functions. Know no round and no method."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from incremental.head import HEAD_ROWS, Weights, pad_rows
from twin.messages import TwinUpdate

Mean = Literal[
    "by_images", "equal"
]  # each twin counts by its images (McMahan et al.), or all alike (public code of GLFC and LGA)


def mean_of_updates(updates: Sequence[TwinUpdate], mean: Mean) -> Weights:
    """Return the mean of twins' models: counted by their images or all alike."""
    return weighted_mean(
        [each.weights for each in updates],
        [each.num_images if mean == "by_images" else 1 for each in updates],
    )


def weighted_mean(weights: Sequence[Weights], shares: Sequence[float | int]) -> Weights:
    """Return the mean of weights, each counted by its share.

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017, algorithm 1. Sums
    are in float64 and in the order given; integer tensors (counters of batch normalisation) are rounded and stay integers.

    Args:
        weights: Same names and shapes.
        shares: Not all zero; need not sum to 1.

    Raises:
        ValueError: If there is nothing to average.
    """
    total = float(sum(shares))
    if not weights or total <= 0:
        raise ValueError(
            f"a mean of {len(weights)} updates with shares {list(shares)} does not exist; at least one positive share is needed"
        )
    return {
        name: _mean([each[name] for each in weights], [share / total for share in shares])
        for name in weights[0]
    }


def _mean(tensors: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    mean = torch.zeros(tensors[0].shape, dtype=torch.float64)
    for tensor, share in zip(tensors, shares, strict=True):
        mean += share * tensor.double()
    return (
        mean.to(tensors[0].dtype)
        if tensors[0].is_floating_point()
        else mean.round().to(tensors[0].dtype)
    )


def parameters_of(weights: Weights) -> Weights:
    """Return what training moves: weights without the statistics and counters of batch normalisation, which follow the data."""
    return {
        name: value
        for name, value in weights.items()
        if value.is_floating_point() and "running_" not in name
    }


def padded(values: Mapping[str, torch.Tensor], rows: int) -> Weights:
    """Return weight-shaped values with zeros for the rows by which the head has grown since they were made."""
    return {
        name: pad_rows(value, rows) if name in HEAD_ROWS else value
        for name, value in values.items()
    }


def labelled(label: str, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return values under ``label/name``, so that several weight-shaped things travel in one message."""
    return {f"{label}/{name}": value for name, value in values.items()}


def with_label(label: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the values that ``labelled`` put under a label, by their own names."""
    return {
        name.removeprefix(f"{label}/"): value
        for name, value in tensors.items()
        if name.startswith(f"{label}/")
    }
