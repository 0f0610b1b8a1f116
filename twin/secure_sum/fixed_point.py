"""Fixed-point encoding of weight changes modulo 2^64, so that sums are exact in any order.

A hospital's share of the mean change is written in units of 2^-40 (9.1e-13), rounded to the
nearest: a mean over K hospitals is off by at most K / 2 units, besides float64's own rounding.
Changes up to 2^22 keep shares and sum within signed 64 bits. Integers (counters of batch
normalisation) are multiplied by the hospital's count and divided by the total after the sum, which
is exact.
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
    """A change that cannot be written in fixed point."""


@dataclass(frozen=True)
class Change:
    """Local minus global weights, as vectors in the order of the tensors' sorted names.

    Args:
        floats: Change of all floating tensors.
        integers: Change of all other tensors.
    """

    floats: NDArray[np.float64]
    integers: NDArray[np.int64]


def num_elements(weights: Weights) -> int:
    """Return the length of an encoded change of these weights."""
    return sum(value.numel() for value in weights.values())


def change_of(local: Weights, reference: Weights) -> Change:
    """Return the change that training made.

    Args:
        local: Weights after training.
        reference: Weights before training: the global model.

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
    changes = [
        _flat(local[name]) - _flat(reference[name]) for name in _names(reference, floating=True)
    ]
    floats = np.concatenate([np.empty(0), *changes])
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
    """Return a hospital's share of the mean change, ``count / total`` of its own, as integers.

    Args:
        change: The hospital's change.
        count: Its number of images, or 1 if all hospitals have the same weight.
        total: Sum of all counts.

    Raises:
        FixedPointError: If an integer is so large that the sum could leave the range.
    """
    if not 0 < count <= total:
        raise FixedPointError(f"a share of {count} / {total} does not exist; allowed: above 0 to 1")
    # Not np.abs: the smallest int64 has no positive counterpart.
    largest = max(-int(change.integers.min(initial=0)), int(change.integers.max(initial=0)))
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
        vector: Sum of the encoded shares, modulo 2^64, shape [N].
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
