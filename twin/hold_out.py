"""Held-out images: a part of a twin's images that a method keeps out of training."""

import numpy as np
from numpy.typing import NDArray


def hold_out(
    positions: NDArray[np.int64], labels: NDArray[np.int64], fraction: float
) -> NDArray[np.bool_]:
    """Choose images to keep out of training, the same number of each class.

    The number is the fraction of the smallest class, but at least 1. A class with a single image
    gives none and does not count. The choice depends on archive positions alone, so it stays the
    same while a class's images do.

    Args:
        positions: Archive positions, shape [N], no duplicates.
        labels: Class of each, shape [N].
        fraction: Share of the smallest class, 0 to 0.5; 0 keeps nothing out.

    Returns:
        True where an image is kept out, shape [N].
    """
    kept_out = np.zeros(len(positions), bool)
    classes, counts = np.unique(labels, return_counts=True)
    if not fraction or not (counts > 1).any():
        return kept_out
    each = max(1, int(fraction * counts[counts > 1].min()))
    # Scrambles the positions: neighbours in the archive often show one patient.
    order = (positions.astype(np.uint64) * np.uint64(2654435761)) % np.uint64(2**32)
    for label in classes[counts > 1]:
        own = np.flatnonzero(labels == label)
        kept_out[own[np.argsort(order[own], kind="stable")[:each]]] = True
    return kept_out
