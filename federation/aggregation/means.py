"""Weighted means of model weights, with head rows matched by class name."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import Literal

import torch

from incremental.head import HEAD_ROWS, Weights
from twin.messages import TwinUpdate

# Shares of twins in a mean: by their images (McMahan et al.) or equal (public code of GLFC and
# LGA).
Mean = Literal["by_images", "equal"]


@dataclass(frozen=True)
class Arrived:
    """An update as a topology hands it to a method.

    Args:
        update: The update. Where it was trained from an older model, the topology has rebased it:
            its weights are the receiver's weights plus the change that the twin made.
        age: Versions of the receiver's model since the one it was trained from; 0 in a
            synchronous round.
        weight: Factor on its share in the mean; 1 in a synchronous round.
    """

    update: TwinUpdate
    age: int = 0
    weight: float = 1.0


def mean_of_arrived(
    own: Weights, class_names: tuple[str, ...], arrived: Sequence[Arrived], mean: Mean
) -> Weights:
    """Return the mean of the models that arrived, in the rows of the receiver's head.

    Args:
        own: The receiver's weights.
        class_names: One for each row of its head.
        arrived: At least one update.
        mean: How updates count, before their own ``weight``.

    Raises:
        ValueError: If an update has a class that the receiver does not know, or no share is
            positive.
    """
    updates = matched_updates(own, class_names, arrived)
    counts = [each.num_images if mean == "by_images" else 1 for each in updates]
    shares = [each.weight * count for each, count in zip(arrived, counts, strict=True)]
    return weighted_mean([each.weights for each in updates], shares)


def matched_updates(
    own: Weights, class_names: tuple[str, ...], arrived: Sequence[Arrived]
) -> list[TwinUpdate]:
    """Return the updates that arrived, each with its head rows as ``matched_rows`` gives them."""
    return [
        replace(
            each.update,
            weights=matched_rows(each.update, own, class_names),
            class_names=class_names,
        )
        for each in arrived
    ]


def matched_rows(update: TwinUpdate, own: Weights, class_names: tuple[str, ...]) -> Weights:
    """Return an update's weights with its head rows in the receiver's order.

    A row of a class that the update does not know has no change: it is the receiver's row.

    Args:
        update: Its ``class_names`` name its rows.
        own: The receiver's weights.
        class_names: One for each row of the receiver's head.

    Raises:
        ValueError: If the update has a class that the receiver does not know.
    """
    if update.class_names == class_names:
        return update.weights
    unknown = [name for name in update.class_names if name not in class_names]
    if unknown:
        raise ValueError(
            f"the update of {update.twin_id} has the classes {', '.join(unknown)}; allowed: those "
            f"of the receiver, {', '.join(class_names)}; let the receiver grow first"
        )
    rows = torch.tensor([class_names.index(name) for name in update.class_names], dtype=torch.int64)
    return {
        name: own[name].index_copy(0, rows, value) if name in HEAD_ROWS else value
        for name, value in update.weights.items()
    }


def weighted_mean(weights: Sequence[Weights], shares: Sequence[float | int]) -> Weights:
    """Return the mean of weights, each counted by its share.

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized
    Data, AISTATS 2017, algorithm 1. Sums are in float64 and in the order given. Integer tensors
    (counters of batch normalisation) are rounded and stay integers.

    Args:
        weights: Same names and shapes.
        shares: Not all zero; need not sum to 1.

    Raises:
        ValueError: If there is nothing to average.
    """
    total = fsum(shares)
    if not weights or total <= 0:
        raise ValueError(
            f"a mean of {len(weights)} updates with shares {list(shares)} does not exist; "
            "at least one positive share is needed"
        )
    fractions = [share / total for share in shares]
    return {name: _mean([each[name] for each in weights], fractions) for name in weights[0]}


def _mean(tensors: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    mean = torch.zeros(tensors[0].shape, dtype=torch.float64)
    for tensor, share in zip(tensors, shares, strict=True):
        mean += share * tensor.double()
    dtype = tensors[0].dtype
    return mean.to(dtype) if tensors[0].is_floating_point() else mean.round().to(dtype)
