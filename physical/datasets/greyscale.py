"""From Hounsfield units to the grey square that a model takes: window, fit into a square.

Pure; knows no file format.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

WindowFunction = Literal["LINEAR_EXACT", "LINEAR", "SIGMOID"]


@dataclass(frozen=True)
class Window:
    """Which densities become black and white.

    Args:
        centre: Density of middle grey [HU].
        width: Range from black to white, above 0, and at least 1 for LINEAR [HU].
        function: DICOM's name of the curve (PS3.3 C.11.2.1.2 and 3). LINEAR_EXACT is what our data
            sets are made with.

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
                f"window of centre {self.centre} and width {self.width} HU; allowed: finite, width "
                f"above {least:g}; correct it"
            )


ABDOMEN = Window(40.0, 400.0)
"""The usual abdominal window, -160 to 240 HU."""


def windowed(hounsfield: NDArray[np.floating], window: Window) -> NDArray[np.uint8]:
    """Return grey values; densities below the window are 0, above it 255.

    LINEAR_EXACT: grey = 255 ((x - c) / w + 1/2); LINEAR: the same with c - 1/2 and w - 1; SIGMOID:
    255 / (1 + exp(-4 (x - c) / w)). Fractions are cut off, as in the made data sets.

    Args:
        hounsfield: Densities, any shape [HU].
        window: What becomes black and white.
    """
    values = np.asarray(hounsfield, np.float64)
    if window.function == "SIGMOID":
        grey = 255 / (1 + np.exp(np.clip(-4 * (values - window.centre) / window.width, -700, 700)))
    elif window.function == "LINEAR":
        centre, width = window.centre - 0.5, window.width - 1
        # of width 1 only a step is left
        grey = (
            np.where(values > centre, 255.0, 0.0)
            if width == 0
            else 255 * ((values - centre) / width + 0.5)
        )
    else:
        grey = 255 * ((values - window.centre) / window.width + 0.5)
    return np.asarray(np.clip(grey, 0, 255).astype(np.uint8))


def fitted(
    grey: NDArray[np.uint8], size: int, spacing: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.uint8]:
    """Return an image resized to [size, size].

    What is not square is centred on black, nothing is stretched or cut off.

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
