"""A simulated hospital: images that arrive over time, by round.

This object is the privacy boundary: only the hospital's own twin may hold it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from physical.batch import Batch


@dataclass(frozen=True)
class Arrival:
    """Images that reach the hospital in the same round.

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
        archive: All images that the hospital will ever see. Simulated hospitals share one
            archive without copying it.
        arrivals: Which images arrive in which round, in order of time.
        joins_at_round: First round in which the hospital takes part.
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
        """Return archive positions of images that arrived in (after_round, until_round], [N]."""
        arrived = [
            arrival.positions
            for arrival in self._arrivals
            if after_round < arrival.round <= until_round
        ]
        return np.concatenate(arrived) if arrived else np.empty(0, np.int64)

    def images(self, positions: NDArray[np.int64]) -> Batch:
        """Return the images at these archive positions."""
        return self._archive.take(positions)

    def labels(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels at these archive positions without reading pixels, shape [N]."""
        return self._archive.labels[positions]
