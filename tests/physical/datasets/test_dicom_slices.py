from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, dcmread, dcmwrite, uid
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames

from physical.datasets.codestream import FrameSize, frame_size
from physical.datasets.dicom import (
    AIR_HU,
    CtFrame,
    DicomError,
    Limits,
    Reason,
    ct_frames,
    grey_square,
    parse_ct,
    read_ct,
    stored_values,
    value_of,
)
from physical.datasets.greyscale import Window, fitted, windowed
from physical.datasets.phantom_dicom import ct_dataset, dicom_bytes, make_identity

Change = Callable[[Dataset], object]
WIDE = Window(0, 4096)


def body(rows: int = 24, columns: int = 24) -> np.ndarray:
    """Densities without any symmetry."""
    return np.arange(rows * columns, dtype=float).reshape(rows, columns) % 997 - 500


def made(hounsfield: np.ndarray | None = None, **changes: object) -> Dataset:
    data = ct_dataset(body() if hounsfield is None else hounsfield, make_identity(np.random.default_rng(1)), "1.2.3.4", "LIVER")
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


# ---- densities


def test_densities_are_slope_times_stored_plus_intercept() -> None:
    data = made(RescaleSlope=0.5, RescaleIntercept=-100.25)
    stored = np.frombuffer(data.PixelData, "<u2").reshape(24, 24)
    (frame,) = slices(data)
    np.testing.assert_array_equal(frame.hounsfield, stored * 0.5 - 100.25)


@pytest.mark.parametrize("bits", [11, 12, 16])
def test_signed_pixels_keep_their_sign(bits: int) -> None:
    (frame,) = slices(with_signed(made(), bits))
    np.testing.assert_array_equal(frame.hounsfield, body())


def test_bits_above_the_stored_ones_do_not_count() -> None:
    data = made()
    clean = slices(data)[0].hounsfield
    data.PixelData = (np.frombuffer(data.PixelData, "<u2") | 0xF000).tobytes()
    np.testing.assert_array_equal(slices(data)[0].hounsfield, clean)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_other_byte_orders_read_the_same(syntax: uid.UID) -> None:
    data = made(PixelPaddingValue=3)
    expected = slices(data)[0].hounsfield
    data.file_meta.TransferSyntaxUID = syntax
    if syntax is uid.ExplicitVRBigEndian:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    stream = BytesIO()
    dcmwrite(stream, data, enforce_file_format=True)
    parsed = parse_ct(stream.getvalue(), Limits())
    np.testing.assert_array_equal(next(ct_frames(parsed, stored_values(parsed, Limits()))).hounsfield, expected)


def test_marked_pixels_beside_the_scan_are_air() -> None:
    stored = np.full((24, 24), 1064, "<u2")
    stored[:, :5], stored[:, 5:8], stored[:, 8:10] = 4000, 4001, 3999
    data = made(PixelPaddingValue=4000)
    data.PixelData = stored.tobytes()
    hounsfield = slices(data)[0].hounsfield
    assert np.unique(hounsfield[:, :5]).tolist() == [AIR_HU]
    assert np.unique(hounsfield[:, 5:8]).tolist() == [4001 - 1024]
    data.PixelPaddingRangeLimit = 4001
    hounsfield = slices(data)[0].hounsfield
    assert np.unique(hounsfield[:, :8]).tolist() == [AIR_HU]
    assert hounsfield[0, 8] == 3999 - 1024


# ---- window


def slow_grey(x: float, window: Window) -> int:
    """One pixel, after PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    c, w = window.centre, window.width
    if window.function == "SIGMOID":
        return int(255 / (1 + np.exp(-4 * (x - c) / w)))
    if window.function == "LINEAR":
        if x <= c - 0.5 - (w - 1) / 2:
            return 0
        if x > c - 0.5 + (w - 1) / 2:
            return 255
        return int(((x - (c - 0.5)) / (w - 1) + 0.5) * 255)
    if x <= c - w / 2:
        return 0
    if x > c + w / 2:
        return 255
    return int(((x - c) / w + 0.5) * 255)


@given(
    st.sampled_from([0.25, 0.5, 1.0, 2.0, -1.0, 0.372549]),
    st.integers(-2000, 1000),
    st.integers(-600, 1500),
    st.integers(1, 4000),
    st.sampled_from(["LINEAR_EXACT", "LINEAR", "SIGMOID"]),
    st.integers(0, 2**32 - 1),
)
def test_grey_values_are_those_of_the_standards_equation(
    slope: float, intercept: int, centre: int, width: int, function: str, seed: int
) -> None:
    window = Window(centre, width, function)  # type: ignore[arg-type]
    stored = np.random.default_rng(seed).integers(0, 4096, (8, 8)).astype("<u2")
    data = made(np.zeros((8, 8)), RescaleSlope=slope, RescaleIntercept=intercept)
    data.PixelData = stored.tobytes()
    (frame,) = slices(data)
    grey = grey_square(frame, window, 8)
    for row in range(8):
        for column in range(8):
            expected = slow_grey(int(stored[row, column]) * slope + intercept, window)
            assert abs(int(grey[row, column]) - expected) <= (0 if slope != 0.372549 else 1)


@given(st.integers(-1000, 1000), st.integers(1, 3000))
def test_denser_is_never_darker(centre: int, width: int) -> None:
    for function in ("LINEAR_EXACT", "LINEAR", "SIGMOID"):
        grey = windowed(np.arange(-3000.0, 3000.0, 7), Window(centre, width, function)).astype(int)  # type: ignore[arg-type]
        assert (np.diff(grey) >= 0).all()


@pytest.mark.parametrize(("width", "function"), [(0, "LINEAR_EXACT"), (-1, "SIGMOID"), (0.5, "LINEAR"), (float("nan"), "LINEAR")])
def test_windows_that_cannot_be_are_refused(width: float, function: str) -> None:
    with pytest.raises(ValueError, match="window of centre"):
        Window(40, width, function)  # type: ignore[arg-type]


def test_the_files_own_window_is_used_where_none_is_given() -> None:
    data = made(WindowCenter=[-100, 40], WindowWidth=[300, 400], VOILUTFunction="SIGMOID")
    (frame,) = slices(data)
    assert frame.window == Window(-100, 300, "SIGMOID")
    np.testing.assert_array_equal(read_ct(dicom_bytes(data), 24)[0], windowed(body(), Window(-100, 300, "SIGMOID")))
    assert reason_of(dicom_bytes(made(WindowWidth=0)), window=None) is Reason.BAD_WINDOW
    assert reason_of(dicom_bytes(made(WindowWidth=None)), window=None) is Reason.BAD_WINDOW


def test_monochrome1_is_shown_inverted() -> None:
    plain, inverted = made(), made(PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_ct(dicom_bytes(inverted), 24, WIDE), 255 - read_ct(dicom_bytes(plain), 24, WIDE))


# ---- orientation and size


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        ([1, 0, 0, 0, 1, 0], lambda a: a),
        ([-1, 0, 0, 0, 1, 0], np.fliplr),
        ([1, 0, 0, 0, -1, 0], np.flipud),
        ([-1, 0, 0, 0, -1, 0], lambda a: np.rot90(a, 2)),
        ([0, 1, 0, 1, 0, 0], np.transpose),
        ([0, 1, 0, -1, 0, 0], np.rot90),
        ([0, -1, 0, 1, 0, 0], lambda a: np.rot90(a, -1)),
        ([0, -1, 0, -1, 0, 0], lambda a: np.rot90(a, 2).T),
    ],
)
def test_every_axial_slice_comes_out_the_same_way(orientation: list[int], turn: Callable[[np.ndarray], np.ndarray]) -> None:
    canonical = body(20, 24)
    stored = turn(canonical)  # how a scanner that stores slices this way stores this body
    data = made(stored, ImageOrientationPatient=orientation)
    (frame,) = slices(data)
    np.testing.assert_array_equal(frame.hounsfield, canonical)


def test_every_place_in_the_body_comes_out_at_its_place() -> None:
    # slow: each pixel's position by PS3.3 C.7.6.2.1.1, then sorted by back and left
    stored = body(5, 7)
    for orientation in ([0, 1, 0, -1, 0, 0], [0, -1, 0, 1, 0, 0], [-1, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 0]):
        along, down = np.array(orientation[:3]), np.array(orientation[3:])
        places = {}
        for row in range(5):
            for column in range(7):
                x, y, _ = along * column + down * row
                places[y, x] = stored[row, column]
        ys, xs = sorted({y for y, _ in places}), sorted({x for _, x in places})
        expected = np.array([[places[y, x] for x in xs] for y in ys])
        (frame,) = slices(made(stored, ImageOrientationPatient=orientation))
        np.testing.assert_array_equal(frame.hounsfield, expected)


def test_a_tilted_gantry_is_still_axial() -> None:
    tilt = np.radians(25)
    assert len(slices(made(ImageOrientationPatient=[1, 0, 0, 0, float(np.cos(tilt)), float(-np.sin(tilt))]))) == 1


@pytest.mark.parametrize(
    "orientation",
    [
        *(None, [], [1, 0, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1], [1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 2, 0], [0, 0, 0, 0, 0, 0]),
        [1, 0, 0, 0, float(np.cos(1)), float(np.sin(1))],
    ],
)
def test_what_is_not_axial_is_refused(orientation: list[float] | None) -> None:
    assert reason_of(dicom_bytes(made(ImageOrientationPatient=orientation))) is Reason.BAD_GEOMETRY


@pytest.mark.parametrize("spacing", [[0, 1], [-1, 1], [1], [1, 1000]])
def test_impossible_spacing_is_refused(spacing: list[float]) -> None:
    assert reason_of(dicom_bytes(made(PixelSpacing=spacing))) is Reason.BAD_GEOMETRY


def test_nothing_is_stretched_or_cut_off() -> None:
    square = read_ct(dicom_bytes(made(np.full((12, 24), 3000.0))), 24, WIDE)[0]
    assert np.flatnonzero(square.max(axis=1)).tolist() == list(range(6, 18))
    # the same, turned: rows twice as far apart make 12 rows as high as 24 columns are wide
    assert read_ct(dicom_bytes(made(np.full((12, 24), 3000.0), PixelSpacing=[2, 1])), 24, WIDE)[0].min() > 200
    assert read_ct(dicom_bytes(made(np.full((12, 24), 3000.0), PixelSpacing=[2, 1])), 9, WIDE).shape == (1, 9, 9)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    np.testing.assert_array_equal(fitted(grey, 16), grey)


# ---- frames


def enhanced(frames: int = 3) -> Dataset:
    data = made(
        ImageOrientationPatient=None, RescaleSlope=None, RescaleIntercept=None, PixelSpacing=None, WindowCenter=None, WindowWidth=None
    )
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = uid.EnhancedCTImageStorage
    data.NumberOfFrames = frames
    data.PixelData = b"".join((np.frombuffer(data.PixelData, "<u2") + 10 * number).tobytes() for number in range(frames))

    def item(**values: object) -> Dataset:
        inner = Dataset()
        for keyword, value in values.items():
            setattr(inner, keyword, value)
        return inner

    data.SharedFunctionalGroupsSequence = Sequence(
        [
            item(
                PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[-1, 0, 0, 0, 1, 0])]),
                PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.5, 0.5])]),
            )
        ]
    )
    data.PerFrameFunctionalGroupsSequence = Sequence(
        item(
            PixelValueTransformationSequence=Sequence([item(RescaleSlope=1, RescaleIntercept=-1024 + number, RescaleType="HU")]),
            FrameVOILUTSequence=Sequence([item(WindowCenter=40 + number, WindowWidth=400)]),
        )
        for number in range(frames)
    )
    return data


def test_each_frame_has_its_own_values_and_the_shared_ones() -> None:
    for number, frame in enumerate(slices(enhanced())):
        np.testing.assert_array_equal(frame.hounsfield, np.fliplr(body()) + 11 * number)
        assert frame.spacing == (0.5, 0.5)
        assert frame.window == Window(40 + number, 400, "LINEAR")
    assert read_ct(dicom_bytes(enhanced()), 16).shape == (3, 16, 16)


def test_a_frame_without_its_values_is_refused() -> None:
    data = enhanced()
    del data.PerFrameFunctionalGroupsSequence[1].PixelValueTransformationSequence
    assert reason_of(dicom_bytes(data)) is Reason.BAD_RESCALE


# ---- compression


def large() -> Dataset:
    """An image that JPEG 2000's five halvings fit into."""
    return made(body(40, 48))


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


def as_ct(path: str) -> Dataset:
    """One of the pydicom package's own files, called a CT."""
    data = dcmread(path)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    data.Modality, data.RescaleSlope, data.RescaleIntercept = "CT", 1, 0
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    return data


def test_jpeg_ls_is_read() -> None:
    raw, compressed = (as_ct(get_testdata_file(f"MR_small{kind}.dcm", download=False)) for kind in ("", "_jpeg_ls_lossless"))
    assert compressed.file_meta.TransferSyntaxUID == uid.JPEGLSLossless
    np.testing.assert_array_equal(slices(compressed)[0].hounsfield, slices(raw)[0].hounsfield)
    frame = next(generate_frames(compressed.PixelData, number_of_frames=1))
    assert frame_size(frame) == FrameSize(64, 64, 1)


def test_a_ct_from_a_scanner_is_read() -> None:
    data = dcmread(get_testdata_file("CT_small.dcm", download=False))
    expected = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
    expected[data.pixel_array == data.PixelPaddingValue] = AIR_HU
    np.testing.assert_array_equal(slices(data)[0].hounsfield, expected)


def test_sizes_are_read_from_compressed_headers() -> None:
    data = large()
    data.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    assert frame_size(frame) == FrameSize(40, 48, 1)
    assert frame_size(b"\0\0\0\x0cjP  \r\n\x87\n" + frame) == FrameSize(40, 48, 1)


@given(st.binary(max_size=60), st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xc0", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "]))
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


# ---- refusals


REFUSED: dict[str, tuple[Reason, Change]] = {
    "no pixels": (Reason.NOT_AN_IMAGE, lambda data: data.__delitem__("PixelData")),
    "another modality": (Reason.NOT_CT, lambda data: setattr(data, "Modality", "MR")),
    "another class": (Reason.NOT_CT, lambda data: setattr(data, "SOPClassUID", uid.MRImageStorage)),
    "a secondary capture": (Reason.NOT_CT, lambda data: setattr(data, "SOPClassUID", uid.SecondaryCaptureImageStorage)),
    "no UID": (Reason.NO_SOP_UID, lambda data: data.__delitem__("SOPInstanceUID")),
    "empty UID": (Reason.NO_SOP_UID, lambda data: setattr(data, "SOPInstanceUID", "")),
    "burnt in": (Reason.BURNT_IN_ANNOTATION, lambda data: setattr(data, "BurnedInAnnotation", "YES")),
    "too many rows": (Reason.TOO_LARGE, lambda data: setattr(data, "Rows", 60_000)),
    "too many frames": (Reason.TOO_LARGE, lambda data: setattr(data, "NumberOfFrames", 1_000_000)),
    "no frames": (Reason.BAD_PIXELS, lambda data: setattr(data, "NumberOfFrames", 0)),
    "no rows": (Reason.BAD_PIXELS, lambda data: data.__delitem__("Rows")),
    "more rows than pixels": (Reason.BAD_PIXELS, lambda data: setattr(data, "Rows", 25)),
    "more pixels than rows": (Reason.BAD_PIXELS, lambda data: setattr(data, "PixelData", data.PixelData * 2)),
    "colour": (Reason.BAD_PIXELS, lambda data: setattr(data, "SamplesPerPixel", 3)),
    "a palette": (Reason.BAD_PIXELS, lambda data: setattr(data, "PhotometricInterpretation", "PALETTE COLOR")),
    "32 bits": (Reason.BAD_PIXELS, lambda data: setattr(data, "BitsAllocated", 32)),
    "bits at the top": (Reason.BAD_PIXELS, lambda data: setattr(data, "HighBit", 15)),
    "no slope": (Reason.BAD_RESCALE, lambda data: data.__delitem__("RescaleSlope")),
    "no intercept": (Reason.BAD_RESCALE, lambda data: setattr(data, "RescaleIntercept", None)),
    "slope 0": (Reason.BAD_RESCALE, lambda data: setattr(data, "RescaleSlope", 0)),
    "electron density": (Reason.BAD_RESCALE, lambda data: setattr(data, "RescaleType", "ED")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_files_have_a_reason(name: str) -> None:
    reason, change = REFUSED[name]
    data = made()
    change(data)
    stream = BytesIO()
    data.file_meta.ImplementationClassUID = "1.2.3"
    data.save_as(stream, enforce_file_format=False)
    content = b"\0" * 128 + b"DICM" + stream.getvalue().removeprefix(b"\0" * 128 + b"DICM")
    assert reason_of(content) is reason


@pytest.mark.parametrize("content", [b"", b"Dear doctor", b"\0" * 1000, b"\0" * 128 + b"DICN"])
def test_other_files_are_not_dicom(content: bytes) -> None:
    assert reason_of(content) is Reason.NOT_DICOM


def test_a_file_cut_anywhere_is_refused() -> None:
    whole = dicom_bytes(made(body(8, 8)))
    assert parse_ct(whole + b"\0" * 7, Limits())
    reasons = {length: reason_of(whole[:length]) for length in range(len(whole))}
    assert {reasons[length] for length in range(132)} == {Reason.NOT_DICOM}
    assert {reasons[length] for length in range(len(whole) - 128, len(whole))} == {Reason.TRUNCATED}
    # between two elements a cut file cannot be told from one that has no pixels
    assert set(reasons.values()) == {Reason.NOT_DICOM, Reason.TRUNCATED, Reason.NOT_AN_IMAGE}
    assert sum(reason is Reason.NOT_AN_IMAGE for reason in reasons.values()) < 100


def test_a_cut_compressed_file_is_refused() -> None:
    data = made()
    data.compress(uid.RLELossless, generate_instance_uid=False)
    whole = dicom_bytes(data)
    assert {reason_of(whole[:-length]) for length in range(1, 200)} == {Reason.TRUNCATED}


def test_a_damaged_codestream_is_bad_pixels() -> None:
    data = large()
    data.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    data.PixelData = encapsulate([frame[:60]])
    assert reason_of(dicom_bytes(data)) is Reason.BAD_PIXELS


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.3.4", uid.DeflatedExplicitVRLittleEndian])
def test_transfer_syntaxes_that_nobody_reads_are_named_so(syntax: str) -> None:
    whole = dicom_bytes(made())
    old, new = b"1.2.840.10008.1.2.1\0", syntax.encode()
    parsed = dcmread(BytesIO(whole))
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        parsed.file_meta.TransferSyntaxUID = uid.UID(syntax)
        stream = BytesIO()
        parsed.save_as(stream)
        content = stream.getvalue()
    else:
        parsed.file_meta.TransferSyntaxUID = uid.UID(syntax)
        parsed["PixelData"].is_undefined_length = True
        parsed.PixelData = encapsulate([parsed.PixelData])
        stream = BytesIO()
        parsed.save_as(stream, implicit_vr=False, little_endian=True)
        content = stream.getvalue()
    assert old not in content and new in content
    assert reason_of(content) is Reason.UNSUPPORTED_TRANSFER_SYNTAX


def test_limits_hold_before_anything_is_read() -> None:
    whole = dicom_bytes(made())
    for limits in (Limits(file_bytes=len(whole) - 1), Limits(side_pixels=23), Limits(decoded_bytes=24 * 24 * 2 - 1)):
        assert reason_of(whole, limits) is Reason.TOO_LARGE
    assert reason_of(dicom_bytes(enhanced(3)), Limits(frames=2)) is Reason.TOO_LARGE
    assert read_ct(whole, 16, WIDE, Limits(len(whole), 24, 1, 24 * 24 * 2)).shape == (1, 16, 16)
    with pytest.raises(ValueError, match="limits are"):
        Limits(frames=0)


def test_a_file_of_very_many_elements_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("physical.datasets.dicom_file._MOST_READS", 100)
    assert reason_of(dicom_bytes(made())) is Reason.TOO_LARGE


def test_deeply_nested_sequences_are_refused() -> None:
    head = dicom_bytes(made())
    nest = bytes.fromhex("0800 4011 5351 0000 ffffffff feff 00e0 ffffffff".replace(" ", "")) * 20_000
    start = head.index(b"\x10\x00\x10\x00PN")
    assert reason_of(head[:start] + nest) in (Reason.TRUNCATED, Reason.TOO_LARGE)


def test_refusals_do_not_quote_the_file() -> None:
    for _, change in REFUSED.values():
        data = made(PatientName="SECRET^NAME", PatientID="SECRET")
        change(data)
        stream = BytesIO()
        data.save_as(stream, enforce_file_format=False)
        with pytest.raises(DicomError) as caught:
            read_ct(stream.getvalue(), 16, WIDE)
        assert "SECRET" not in str(caught.value)


def test_bad_values_are_not_quoted_in_logs(caplog: pytest.LogCaptureFixture) -> None:
    content = dicom_bytes(made(BodyPartExamined="A" * 14)).replace(b"A" * 14, b"SECRET^OF^JANE")
    parsed = parse_ct(content, Limits())
    assert value_of(parsed, "BodyPartExamined") == "SECRET^OF^JANE"
    assert "SECRET" not in caplog.text


@given(st.integers(132, 1500), st.binary(min_size=1, max_size=8))
def test_no_damage_ends_in_another_error(place: int, damage: bytes) -> None:
    whole = dicom_bytes(made(body(8, 8)))
    content = whole[:place] + damage + whole[place + len(damage) :]
    try:
        assert read_ct(content, 8).shape[1:] == (8, 8)
    except DicomError as error:
        assert error.reason in Reason
