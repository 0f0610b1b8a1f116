"""CT files that are made for a test, and what the reader says of them."""

import numpy as np
import pytest
from pydicom import Dataset, Sequence, uid

from physical.datasets.dicom import CtFrame, ct_frames, read_ct
from physical.datasets.dicom_file import DicomError, Limits, parse_ct, stored_values
from physical.datasets.greyscale import Window
from physical.datasets.phantom_dicom import ct_dataset, dicom_bytes, make_identity
from physical.datasets.refusal import Reason

WIDE = Window(0, 4096)


def body(rows: int = 24, columns: int = 24) -> np.ndarray:
    """Densities without any symmetry."""
    return np.arange(rows * columns, dtype=float).reshape(rows, columns) % 997 - 500


def made(hounsfield: np.ndarray | None = None, **changes: object) -> Dataset:
    data = ct_dataset(
        body() if hounsfield is None else hounsfield,
        make_identity(np.random.default_rng(1)),
        "1.2.3.4",
        "LIVER",
    )
    for keyword, value in changes.items():
        if value is None:
            del data[keyword]
        else:
            setattr(data, keyword, value)
    return data


def slices(data: Dataset, limits: Limits | None = None) -> list[CtFrame]:
    limits = limits or Limits()
    parsed = parse_ct(dicom_bytes(data), limits)
    return list(ct_frames(parsed, stored_values(parsed, limits)))


def reason_of(content: bytes, limits: Limits | None = None, window: Window | None = WIDE) -> Reason:
    with pytest.raises(DicomError) as caught:
        read_ct(content, 16, window, limits)
    assert "allowed:" in str(caught.value)
    return caught.value.reason


def with_signed(data: Dataset, bits: int = 12) -> Dataset:
    stored = body(data.Rows, data.Columns).astype("<i2")
    data.PixelRepresentation, data.BitsStored, data.HighBit = 1, bits, bits - 1
    data.PixelData = stored.tobytes()
    data.RescaleIntercept = 0
    return data


def enhanced(frames: int = 3) -> Dataset:
    data = made(
        ImageOrientationPatient=None,
        RescaleSlope=None,
        RescaleIntercept=None,
        PixelSpacing=None,
        WindowCenter=None,
        WindowWidth=None,
    )
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = uid.EnhancedCTImageStorage
    data.NumberOfFrames = frames
    data.PixelData = b"".join(
        (np.frombuffer(data.PixelData, "<u2") + 10 * number).tobytes() for number in range(frames)
    )

    def item(**values: object) -> Dataset:
        inner = Dataset()
        for keyword, value in values.items():
            setattr(inner, keyword, value)
        return inner

    data.SharedFunctionalGroupsSequence = Sequence(
        [
            item(
                PlaneOrientationSequence=Sequence(
                    [item(ImageOrientationPatient=[-1, 0, 0, 0, 1, 0])]
                ),
                PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.5, 0.5])]),
            )
        ]
    )
    data.PerFrameFunctionalGroupsSequence = Sequence(
        item(
            PixelValueTransformationSequence=Sequence(
                [item(RescaleSlope=1, RescaleIntercept=-1024 + number, RescaleType="HU")]
            ),
            FrameVOILUTSequence=Sequence([item(WindowCenter=40 + number, WindowWidth=400)]),
        )
        for number in range(frames)
    )
    return data


def large() -> Dataset:
    """An image that JPEG 2000's five halvings fit into."""
    return made(body(40, 48))
