"""A batch of 8-bit images with class labels and the class names they point into."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """Images with their class labels.

    Args:
        images: Pixels, shape [N, H, W, C], 8 bit; C is 1 (grey) or 3 (red, green, blue).
        labels: Index of each image's class in ``vocabulary``, shape [N].
        vocabulary: Class names that the labels point into.

    Raises:
        ValueError: If the arrays do not fit each other or a label points outside the vocabulary.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    vocabulary: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the arrays against each other."""
        if (
            self.images.dtype != np.uint8
            or self.images.ndim != 4
            or self.images.shape[3] not in (1, 3)
        ):
            raise ValueError(
                f"Batch.images is {self.images.dtype} of shape {self.images.shape}; "
                "expected uint8 of shape [N, H, W, 1 or 3]"
            )
        if self.labels.shape != (len(self.images),):
            raise ValueError(
                f"Batch.labels has shape {self.labels.shape}; "
                f"expected one per image: ({len(self.images)},)"
            )
        if len(self.labels) and not (
            self.labels.min() >= 0 and self.labels.max() < len(self.vocabulary)
        ):
            raise ValueError(
                f"Batch.labels reach from {self.labels.min()} to {self.labels.max()}; "
                f"the vocabulary has {len(self.vocabulary)} names"
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def take(self, positions: NDArray[np.int64]) -> "Batch":
        """Return the images at these positions, in their order."""
        return Batch(self.images[positions], self.labels[positions], self.vocabulary)

    def class_names(self) -> tuple[str, ...]:
        """Return the names that occur, in the vocabulary's order."""
        return tuple(self.vocabulary[label] for label in np.unique(self.labels))
