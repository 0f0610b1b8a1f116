"""Converts DICOM CT files into slices in Hounsfield units with one common orientation.

Reads CT Image Storage and its enhanced, multi-frame forms; axial slices only. Anything else
raises a ``DicomError`` with a reason. Slices have the front at the top and the patient's left on
the right. ``dicom_file`` checks and decodes a file.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from physical.datasets.dicom_file import (
    ASK_SENDER,
    Limits,
    parse_ct,
    refuse_dicom,
    stored_values,
    value_of,
)
from physical.datasets.greyscale import Window, WindowFunction, apply_window, fit_to_square
from physical.datasets.refusal import Reason

if TYPE_CHECKING:
    from pydicom import Dataset

AIR_HU = -1024.0
"""Density assigned to pixels that a file marks as padding [HU]."""
_LEAST_COSINE = math.cos(math.radians(30))  # slices tilted up to 30 degrees count as axial


@dataclass(frozen=True)
class CtFrame:
    """One slice, front at the top, patient's left on the right.

    Args:
        hounsfield: Densities, [H, W] [HU].
        spacing: Distance of two rows and of two columns [mm].
        inverted: Whether the sender shows low values bright (MONOCHROME1).
        window: The file's own window, if it has one.
    """

    hounsfield: NDArray[np.float64]
    spacing: tuple[float, float]
    inverted: bool
    window: Window | None


def read_ct(
    content: bytes, size: int, window: Window | None = None, limits: Limits | None = None
) -> NDArray[np.uint8]:
    """Return all slices of a DICOM file as grey squares, [F, size, size].

    Args:
        content: The file.
        size: Height and width [px].
        window: Densities shown as black and white; None: the file's own window.
        limits: Size limits of the file; None: the default limits.

    Raises:
        DicomError: If the file is refused.
    """
    limits = limits or Limits()
    dataset = parse_ct(content, limits)
    return np.stack(
        [
            grey_square(frame, window, size)
            for frame in ct_frames(dataset, stored_values(dataset, limits))
        ]
    )


def ct_frames(dataset: "Dataset", stored: NDArray[np.integer]) -> Iterator[CtFrame]:
    """Yield the slices of a data set in Hounsfield units; only one at a time is in memory.

    Args:
        dataset: As ``parse_ct`` returns it.
        stored: Its pixels, [F, H, W].

    Raises:
        DicomError: If a slice has no rescale to Hounsfield units, or is not axial.
    """
    inverted = value_of(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    for number, values in enumerate(stored):
        slope, intercept = _rescale(dataset, number)
        hounsfield = values.astype(np.float64) * slope + intercept
        hounsfield[_padding_mask(dataset, values)] = AIR_HU
        transposed, upside_down, sideways = _orientation(dataset, number)
        rows, columns = _spacing(dataset, number)
        if transposed:
            hounsfield, rows, columns = hounsfield.T, columns, rows
        hounsfield = hounsfield[:: -1 if upside_down else 1, :: -1 if sideways else 1]
        yield CtFrame(
            np.ascontiguousarray(hounsfield),
            (rows, columns),
            inverted,
            _own_window(dataset, number),
        )


def grey_square(frame: CtFrame, window: Window | None, size: int) -> NDArray[np.uint8]:
    """Return a slice as a grey square; the sides of a slice that is not square become black.

    Args:
        frame: The slice.
        window: Densities shown as black and white; None: the file's own window.
        size: Height and width [px].

    Raises:
        DicomError: If there is no window.
    """
    chosen = window or frame.window
    if chosen is None:
        refuse_dicom(
            Reason.BAD_WINDOW,
            "no window in the file",
            "a centre and a width",
            "set a window in Hounsfield units in the config",
        )
    grey = apply_window(frame.hounsfield, chosen)
    return fit_to_square(255 - grey if frame.inverted else grey, size, frame.spacing)


def _rescale(dataset: "Dataset", number: int) -> tuple[float, float]:
    group = "PixelValueTransformationSequence"
    numbers = [
        _finite_numbers(_frame_value(dataset, number, group, keyword))
        for keyword in ("RescaleSlope", "RescaleIntercept")
    ]
    kind = _frame_value(dataset, number, group, "RescaleType")
    if (
        any(each is None or len(each) != 1 for each in numbers)
        or numbers[0] == [0.0]
        or kind not in (None, "", "HU", "US")
    ):
        refuse_dicom(
            Reason.BAD_RESCALE,
            "no rescale to Hounsfield units",
            "a slope that is not 0 and an intercept",
            ASK_SENDER,
        )
    ((slope,), (intercept,)) = (each or [0.0] for each in numbers)
    return slope, intercept


def _padding_mask(dataset: "Dataset", values: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return the mask of pixels outside of the scanned area, [H, W]."""
    first = value_of(dataset, "PixelPaddingValue")
    last = value_of(dataset, "PixelPaddingRangeLimit")
    if not isinstance(first, int):
        return np.zeros(values.shape, bool)
    limits = sorted((first, last if isinstance(last, int) else first))
    return np.asarray((values >= limits[0]) & (values <= limits[1]))


def _orientation(dataset: "Dataset", number: int) -> tuple[bool, bool, bool]:
    """Return whether to transpose a slice, then flip it vertically, and flip it horizontally.

    The first three numbers of ImageOrientationPatient point along a row, the last three down a
    column; x grows to the patient's left and y to the back (PS3.3 C.7.6.2.1.1).
    """
    numbers = _finite_numbers(
        _frame_value(dataset, number, "PlaneOrientationSequence", "ImageOrientationPatient")
    )
    if numbers is None or len(numbers) != 6:
        refuse_dicom(
            Reason.BAD_GEOMETRY,
            "no orientation of six numbers",
            "ImageOrientationPatient",
            ASK_SENDER,
        )
    along, down = np.array(numbers[:3]), np.array(numbers[3:])
    if not np.allclose([along @ along, down @ down, along @ down], [1, 1, 0], atol=0.02):
        refuse_dicom(
            Reason.BAD_GEOMETRY,
            "two directions that are not at right angles and of length 1",
            "ImageOrientationPatient",
            ASK_SENDER,
        )
    transposed = bool(abs(along[1]) > abs(along[0]))
    across, upright = (down, along) if transposed else (along, down)
    if abs(across[0]) < _LEAST_COSINE or abs(upright[1]) < _LEAST_COSINE:
        refuse_dicom(
            Reason.BAD_GEOMETRY,
            "a slice that is not axial",
            "axial slices, tilted by at most 30 degrees",
            ASK_SENDER,
        )
    return transposed, bool(upright[1] < 0), bool(across[0] < 0)


def _spacing(dataset: "Dataset", number: int) -> tuple[float, float]:
    value = _frame_value(dataset, number, "PixelMeasuresSequence", "PixelSpacing")
    if value is None:
        return 1.0, 1.0
    numbers = _finite_numbers(value)
    if (
        numbers is None
        or len(numbers) != 2
        or min(numbers) <= 0
        or max(numbers) > 100 * min(numbers)
    ):
        refuse_dicom(
            Reason.BAD_GEOMETRY,
            "a pixel spacing that cannot be",
            "two numbers above 0 [mm]",
            ASK_SENDER,
        )
    return numbers[0], numbers[1]


def _own_window(dataset: "Dataset", number: int) -> Window | None:
    group = "FrameVOILUTSequence"
    centre, width = (
        _finite_numbers(_frame_value(dataset, number, group, keyword))
        for keyword in ("WindowCenter", "WindowWidth")
    )
    function = _frame_value(dataset, number, group, "VOILUTFunction") or "LINEAR"
    if not centre or not width or function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return None
    try:
        # of several windows, the first is the sender's choice
        return Window(centre[0], width[0], cast(WindowFunction, str(function)))
    except ValueError:
        return None


def _frame_value(dataset: "Dataset", number: int, group: str, keyword: str) -> Any:
    """Return a frame's value: from its functional group, the shared one, or the data set.

    Source: PS3.3 C.7.6.16.
    """
    for place, index in (
        ("PerFrameFunctionalGroupsSequence", number),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        items = value_of(dataset, place)
        if items is not None and index < len(items):
            inner = value_of(items[index], group)
            if (
                inner is not None
                and len(inner)
                and (value := value_of(inner[0], keyword)) is not None
            ):
                return value
    return value_of(dataset, keyword)


def _finite_numbers(value: Any) -> list[float] | None:
    """Return finite numbers; None if a value is missing or not a finite number."""
    try:
        numbers = [
            float(each)
            for each in (
                value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
            )
        ]
    except (TypeError, ValueError):
        return None
    return numbers if numbers and all(map(math.isfinite, numbers)) else None
