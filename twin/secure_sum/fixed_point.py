"""Fixed-point encoding of weight changes modulo 2^64, so that sums are exact in any order.

A float is its share of the mean change in units of 2^-40 (9.1e-13), rounded to the nearest: a mean
over K hospitals is off by at most K / 2 units, besides float64's own rounding. A change may be as
large as 2^22; then neither a share nor the sum leaves the range of signed 64 bits. Integers
(counters of batch normalisation) are multiplied by the hospital's count and divided by the total
after the sum: exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from incremental.head import Weights

FRACTION_BITS = 40
RESOLUTION = 2.0**-FRACTION_BITS
LARGEST_CHANGE = 2.0 ** (62 - FRACTION_BITS)
LARGEST_COUNT = 2**62


class FixedPointError(ValueError):
    """A change that cannot be written in fixed point: what, got, allowed."""


@dataclass(frozen=True)
class Change:
    """Local minus global weights, tensor after tensor in the order of their names.

    Args:
        floats: Of all floating tensors.
        integers: Of all others.
    """

    floats: NDArray[np.float64]
    integers: NDArray[np.int64]


def num_elements(weights: Weights) -> int:
    """Return how many integers a change of these weights is."""
    return sum(value.numel() for value in weights.values())


def change_of(local: Weights, reference: Weights) -> Change:
    """Return what training changed.

    Args:
        local: After it.
        reference: Before it: the global model.

    Raises:
        FixedPointError: If names, shapes or types differ, a value is not finite, or a change is out
            of range.
    """
    if local.keys() != reference.keys():
        raise FixedPointError(
            "the update has other tensors than the global model: "
            f"{', '.join(sorted(local.keys() ^ reference.keys())[:3])}"
        )
    for name, like in reference.items():
        value = local[name]
        if value.shape != like.shape or value.dtype != like.dtype:
            raise FixedPointError(
                f"{name} is {value.dtype} {tuple(value.shape)}; the global model's is {like.dtype} "
                f"{tuple(like.shape)}"
            )
    floats = np.concatenate(
        [
            np.empty(0),
            *(
                _flat(local[name]) - _flat(reference[name])
                for name in _names(reference, floating=True)
            ),
        ]
    )
    if not np.isfinite(floats).all():
        raise FixedPointError(
            "the update holds values that are not finite; nothing of it can be summed"
        )
    largest = np.abs(floats).max(initial=0.0)
    if largest > LARGEST_CHANGE:
        raise FixedPointError(
            f"a weight changed by {largest:.3g}; allowed: {LARGEST_CHANGE:g}, what fixed point can "
            "hold"
        )
    counters = [
        (local[name].long() - reference[name].long()).flatten().numpy()
        for name in _names(reference, floating=False)
    ]
    integers = np.concatenate([np.empty(0, np.int64), *counters])
    return Change(floats, integers)


def encode(change: Change, count: int, total: int) -> NDArray[np.uint64]:
    """Return a hospital's share of the mean change: ``count / total`` of it.

    Args:
        change: What it changed.
        count: Its images, or 1 where hospitals count the same.
        total: Sum of all counts.

    Raises:
        FixedPointError: If an integer is so large that the sum could leave the range.
    """
    if not 0 < count <= total:
        raise FixedPointError(f"a share of {count} / {total} does not exist; allowed: above 0 to 1")
    largest = max(
        (
            abs(int(value))
            for value in (change.integers.min(initial=0), change.integers.max(initial=0))
        ),
        default=0,
    )
    if largest * total > LARGEST_COUNT:
        raise FixedPointError(
            f"a counter changed by {largest}, times {total} in all; allowed: {LARGEST_COUNT}, what "
            "64 bits can hold"
        )
    floats = np.rint(change.floats * (count / total) / RESOLUTION).astype(np.int64)
    return np.concatenate([floats, change.integers * count]).view(np.uint64)


def decode(vector: NDArray[np.uint64], reference: Weights, total: int) -> Weights:
    """Return the weights whose change from the reference is a sum of shares; integers are rounded.

    Args:
        vector: Sum of what ``encode`` returned, modulo 2^64.
        reference: The global model.
        total: Sum of all counts.
    """
    signed = torch.from_numpy(vector.view(np.int64).astype(np.float64))
    weights, start = {}, 0
    for floating in (True, False):
        for name in _names(reference, floating=floating):
            like = reference[name]
            part = signed[start : start + like.numel()].reshape(like.shape)
            moved = like.double() + (part * RESOLUTION if floating else part / total)
            weights[name] = (moved if floating else moved.round()).to(like.dtype)
            start += like.numel()
    return {name: weights[name] for name in reference}


def _names(weights: Weights, *, floating: bool) -> Iterator[str]:
    return (name for name in sorted(weights) if weights[name].is_floating_point() == floating)


def _flat(tensor: torch.Tensor) -> NDArray[np.float64]:
    flat: NDArray[np.float64] = tensor.detach().double().flatten().numpy()
    return flat
