"""A part of a twin's images that a method wants kept out of training, to fit something to. Knows no method.

Both halves are optional: a method asks by having the attribute of ``HoldsOut``, a context shows the images by that of ``ShowsHeldOut``.
They stay inside the hospital: a method computes numbers from them and uploads those alone.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@runtime_checkable
class HoldsOut(Protocol):
    """A method that wants a part of current images and exemplars kept out of training."""

    @property
    def held_out_fraction(self) -> float:
        """Share of each class's images that may be kept out, 0 to 0.5."""
        ...


@runtime_checkable
class ShowsHeldOut(Protocol):
    """A context that shows what was kept out of training in this round."""

    @property
    def held_out(self) -> Callable[[], tuple[Tensor, Tensor]] | None:
        """Returns the images as they are, and their rows of the head: ([N, C, H, W] in [0, 1], [N])."""
        ...


def held_out_images(context: object) -> tuple[Tensor, Tensor] | None:
    """Return the images that were kept out of training and their rows; none where the context shows none."""
    look = context.held_out if isinstance(context, ShowsHeldOut) else None
    return look() if look else None


def hold_out(positions: NDArray[np.int64], labels: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Choose images to keep out of training: the same number of each class, so that nothing fitted to them favours a class.

    The number is the fraction of the smallest class, but at least 1; a class with a single image gives none and does not count. Which
    images is a function of their archive positions alone: while a class's images stay the same, so does the choice.

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
    # A fixed scramble of the position: neighbours in the archive (often one patient) do not go together.
    order = (positions.astype(np.uint64) * np.uint64(2654435761)) % np.uint64(2**32)
    for label in classes[counts > 1]:
        own = np.flatnonzero(labels == label)
        kept_out[own[np.argsort(order[own], kind="stable")[:each]]] = True
    return kept_out
