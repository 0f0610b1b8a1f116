"""Means over twins' weights: pure functions. Know no round and no method."""

from collections.abc import Sequence

import torch

from incremental.head import Weights


def weighted_mean(weights: Sequence[Weights], shares: Sequence[float | int]) -> Weights:
    """Return the mean of weights, each counted by its share.

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017, algorithm 1. Sums
    are in
    float64 and in the order given; integer tensors (counters of batch normalisation) are rounded and stay integers.

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
    return {name: _mean([each[name] for each in weights], [share / total for share in shares]) for name in weights[0]}


def _mean(tensors: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    mean = torch.zeros(tensors[0].shape, dtype=torch.float64)
    for tensor, share in zip(tensors, shares, strict=True):
        mean += share * tensor.double()
    return mean.to(tensors[0].dtype) if tensors[0].is_floating_point() else mean.round().to(tensors[0].dtype)
