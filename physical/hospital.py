"""A hospital: images that arrive over time, behind one wall. Knows no model, no server and no task.

Its wall is the privacy boundary: only the hospital's own twin may hold this object.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from physical.batch import Batch


@dataclass(frozen=True)
class Arrival:
    """Images that reach the hospital together.

    Args:
        round: Time of arrival, in rounds of the federation.
        positions: Positions of the images in the hospital's archive, shape [N].
    """

    round: int
    positions: NDArray[np.int64]


class Hospital:
    """A physical entity whose images arrive over time.

    Args:
        hospital_id: Its name in the federation.
        archive: All images that the hospital will ever see (in a simulation: shared with others,
            never copied).
        arrivals: What arrives when, in order of time.
        joins_at_round: First round in which it answers.
    """

    def __init__(
        self, hospital_id: str, archive: Batch, arrivals: Sequence[Arrival], joins_at_round: int = 0
    ) -> None:
        self.hospital_id = hospital_id
        self.joins_at_round = joins_at_round
        self._archive = archive
        self._arrivals = tuple(arrivals)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Class names that the hospital's image labels point into."""
        return self._archive.vocabulary

    def new_images(self, after_round: int, until_round: int) -> NDArray[np.int64]:
        """Return the archive positions of what arrived after one round and up to another.

        Shape [N].
        """
        arrived = [
            each.positions for each in self._arrivals if after_round < each.round <= until_round
        ]
        return np.concatenate(arrived) if arrived else np.empty(0, np.int64)

    def images(self, positions: NDArray[np.int64]) -> Batch:
        """Return the images at these archive positions."""
        return self._archive.take(positions)

    def labels(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels at these archive positions, without touching a pixel, shape [N]."""
        return self._archive.labels[positions]
