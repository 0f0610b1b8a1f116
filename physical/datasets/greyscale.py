"""Converts Hounsfield units to grey values (window) and fits an image into a square."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

WindowFunction = Literal["LINEAR_EXACT", "LINEAR", "SIGMOID"]


@dataclass(frozen=True)
class Window:
    """Range of densities from black to white.

    Args:
        centre: Density of middle grey [HU].
        width: Range from black to white, above 0, and at least 1 for LINEAR [HU].
        function: DICOM's name of the curve (PS3.3 C.11.2.1.2 and 3). The phantom and OrganMNIST
            use LINEAR_EXACT.

    Raises:
        ValueError: If a number is not finite or the width is too small.
    """

    centre: float
    width: float
    function: WindowFunction = "LINEAR_EXACT"

    def __post_init__(self) -> None:
        """Check the ranges."""
        least = 1.0 if self.function == "LINEAR" else 0.0
        fits = self.width > least or (self.function == "LINEAR" and self.width == 1)
        if not (np.isfinite([self.centre, self.width]).all() and fits):
            raise ValueError(
                f"window of centre {self.centre} and width {self.width} HU; "
                f"allowed: finite, width above {least:g}; correct it"
            )


ABDOMEN = Window(40.0, 400.0)
"""The usual abdominal window, -160 to 240 HU."""


def apply_window(hounsfield: NDArray[np.floating], window: Window) -> NDArray[np.uint8]:
    """Return grey values; densities below the window are 0, above it 255.

    LINEAR_EXACT: grey = 255 ((x - c) / w + 1/2); LINEAR: the same with c - 1/2 and w - 1;
    SIGMOID: 255 / (1 + exp(-4 (x - c) / w)). Fractions are cut off, as in the phantom.

    Args:
        hounsfield: Densities, any shape [HU].
        window: Range from black to white.
    """
    values = np.asarray(hounsfield, np.float64)
    if window.function == "SIGMOID":
        grey = 255 / (1 + np.exp(np.clip(-4 * (values - window.centre) / window.width, -700, 700)))
    elif window.function == "LINEAR":
        centre, width = window.centre - 0.5, window.width - 1
        # a window of width 1 is a step
        grey = (
            np.where(values > centre, 255.0, 0.0)
            if width == 0
            else 255 * ((values - centre) / width + 0.5)
        )
    else:
        grey = 255 * ((values - window.centre) / window.width + 0.5)
    return np.asarray(np.clip(grey, 0, 255).astype(np.uint8))


def fit_to_square(
    grey: NDArray[np.uint8], size: int, spacing: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.uint8]:
    """Return an image resized to [size, size]: centred on black, not stretched, not cropped.

    Args:
        grey: The image, [H, W].
        size: Height and width of the result [px].
        spacing: Distance of two rows and of two columns [mm, or any unit].
    """
    from PIL import Image

    height, width = grey.shape[0] * spacing[0], grey.shape[1] * spacing[1]
    scale = size / max(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    if (rows, columns) != grey.shape:
        grey = np.asarray(Image.fromarray(grey).resize((columns, rows), Image.Resampling.BILINEAR))
    if rows == columns == size:
        return grey.copy()
    square = np.zeros((size, size), np.uint8)
    top, left = (size - rows) // 2, (size - columns) // 2
    square[top : top + rows, left : left + columns] = grey
    return square
