"""Exemplar memory of a twin: bounded, per class, chosen by herding.

Source: iCaRL (Rebuffi et al., CVPR 2017, algorithms 4 and 5), but an image is chosen at most once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class ExemplarMemory:
    """Exemplars by class name, in the order of herding.

    Args:
        capacity: Most exemplars of all classes together.
        positions: Archive positions of each class's exemplars.
    """

    capacity: int
    positions: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of exemplars."""
        return sum(len(each) for each in self.positions.values())

    def per_class(self, num_classes: int) -> int:
        """Return how many exemplars each of so many classes may have."""
        return self.capacity // max(num_classes, 1)

    def with_classes(self, ranked: Mapping[str, NDArray[np.int64]]) -> "ExemplarMemory":
        """Return the memory with new classes, every class cut to its first exemplars.

        Args:
            ranked: Archive positions of each new class in the order of herding; all, or at least as
                many as fit.
        """
        classes = {**self.positions, **ranked}
        room = self.per_class(len(classes))
        return ExemplarMemory(
            self.capacity, {name: positions[:room] for name, positions in classes.items()}
        )

    def all_positions(self) -> NDArray[np.int64]:
        """Return every exemplar's archive position."""
        return np.concatenate([np.empty(0, np.int64), *self.positions.values()])


def herd(features: Float[Tensor, "N D"], count: int) -> NDArray[np.int64]:
    """Choose images whose running mean stays nearest to the class mean.

    Each choice minimises ``norm(mean - (sum of chosen + f) / (k + 1))`` over the images left. For
    features f of unit length that is where ``f . ((k + 1) mean - sum of chosen)`` is largest.

    Args:
        features: One class's features.
        count: How many to choose.

    Returns:
        Indices in the order of choice, shape [min(count, N)].
    """
    # In float64, as ties would depend on the order of float32 sums.
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    mean = unit.mean(0)
    taken = torch.zeros(len(unit), dtype=torch.double)
    total = torch.zeros_like(mean)
    chosen: list[int] = []
    for step in range(min(count, len(unit))):
        best = int((unit @ ((step + 1) * mean - total) + taken).argmax())
        chosen.append(best)
        taken[best] = -torch.inf
        total = total + unit[best]
    return np.array(chosen, np.int64)
