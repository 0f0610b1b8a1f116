from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread, uid
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames

from physical.datasets.codestream import FrameSize, frame_size
from physical.datasets.dicom import AIR_HU
from physical.datasets.phantom_dicom import dicom_bytes
from physical.datasets.refusal import Reason
from tests.physical.datasets.made_ct import (
    body,
    enhanced,
    large,
    made,
    reason_of,
    slices,
    with_signed,
)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless])
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_compression_changes_nothing(syntax: uid.UID, signed: bool) -> None:
    data = with_signed(large()) if signed else large()
    data.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(slices(data)[0].hounsfield, body(40, 48))


def test_compressed_frames_are_told_apart() -> None:
    data = enhanced()
    expected = [frame.hounsfield for frame in slices(data)]
    data.compress(uid.RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal([frame.hounsfield for frame in slices(data)], expected)
    frames = list(generate_frames(data.PixelData, number_of_frames=3))
    data.PixelData = encapsulate(frames[:2])
    assert reason_of(dicom_bytes(data)) is Reason.BAD_PIXELS


def test_baseline_jpeg_is_read() -> None:
    from PIL import Image

    grey = (np.add.outer(np.arange(24), np.arange(24)) * 5).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(grey).save(stream, "JPEG", quality=95)
    data = made(BitsAllocated=8, BitsStored=8, HighBit=7)
    data.PixelData = encapsulate([stream.getvalue()])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    assert np.abs(slices(data)[0].hounsfield + 1024 - grey).max() < 6


def pydicom_file(name: str) -> Dataset:
    """Return a data set that comes with the pydicom package."""
    return dcmread(str(get_testdata_file(name, download=False)))


def as_ct(name: str) -> Dataset:
    """Return one of the pydicom package's files, relabelled as CT."""
    data = pydicom_file(name)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    data.Modality, data.RescaleSlope, data.RescaleIntercept = "CT", 1, 0
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    return data


def test_jpeg_ls_is_read() -> None:
    raw, compressed = (as_ct(f"MR_small{kind}.dcm") for kind in ("", "_jpeg_ls_lossless"))
    assert compressed.file_meta.TransferSyntaxUID == uid.JPEGLSLossless
    np.testing.assert_array_equal(slices(compressed)[0].hounsfield, slices(raw)[0].hounsfield)
    frame = next(generate_frames(compressed.PixelData, number_of_frames=1))
    assert frame_size(frame) == FrameSize(64, 64, 1)


def test_a_ct_from_a_scanner_is_read() -> None:
    data = pydicom_file("CT_small.dcm")
    expected = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
    expected[data.pixel_array == data.PixelPaddingValue] = AIR_HU
    np.testing.assert_array_equal(slices(data)[0].hounsfield, expected)


def test_sizes_are_read_from_compressed_headers() -> None:
    data = large()
    data.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    assert frame_size(frame) == FrameSize(40, 48, 1)
    assert frame_size(b"\0\0\0\x0cjP  \r\n\x87\n" + frame) == FrameSize(40, 48, 1)


@given(
    st.binary(max_size=60),
    st.sampled_from(
        [b"", b"\xff\xd8", b"\xff\xd8\xff\xc0", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "]
    ),
)
def test_no_bytes_break_the_reader_of_sizes(rest: bytes, start: bytes) -> None:
    size = frame_size(start + rest)
    assert size is None or size.components >= 0


def test_a_jpeg_that_wants_more_than_the_file_says_is_not_decoded() -> None:
    data = large()
    data.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    frame = bytearray(next(generate_frames(data.PixelData, number_of_frames=1)))
    frame[8:16] = (60_000).to_bytes(4, "big") * 2
    data.PixelData = encapsulate([bytes(frame)])
    assert reason_of(dicom_bytes(data)) is Reason.BAD_PIXELS


def test_run_lengths_that_unpack_to_more_than_a_frame_are_not_unpacked() -> None:
    data = made()
    data.compress(uid.RLELossless, generate_instance_uid=False)
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    data.PixelData = encapsulate([frame + b"\x81\0" * 100_000])
    assert reason_of(dicom_bytes(data)) is Reason.BAD_PIXELS
