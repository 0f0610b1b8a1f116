from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmwrite, uid

from physical.datasets.dicom import AIR_HU, ct_frames, grey_square, read_ct
from physical.datasets.dicom_file import Limits, parse_ct, stored_values
from physical.datasets.greyscale import Window, WindowFunction, apply_window, fit_to_square
from physical.datasets.phantom_dicom import dicom_bytes
from physical.datasets.refusal import Reason
from tests.physical.datasets.made_ct import (
    WIDE,
    body,
    enhanced,
    made,
    reason_of,
    slices,
    with_signed,
)

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


def test_bits_above_the_stored_ones_are_ignored() -> None:
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
    np.testing.assert_array_equal(
        next(ct_frames(parsed, stored_values(parsed, Limits()))).hounsfield, expected
    )


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
    slope: float, intercept: int, centre: int, width: int, function: WindowFunction, seed: int
) -> None:
    window = Window(centre, width, function)
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
        grey = apply_window(np.arange(-3000.0, 3000.0, 7), Window(centre, width, function))
        assert (np.diff(grey.astype(int)) >= 0).all()


@pytest.mark.parametrize(
    ("width", "function"),
    [(0, "LINEAR_EXACT"), (-1, "SIGMOID"), (0.5, "LINEAR"), (float("nan"), "LINEAR")],
)
def test_invalid_windows_are_refused(width: float, function: WindowFunction) -> None:
    with pytest.raises(ValueError, match="window of centre"):
        Window(40, width, function)


def test_the_files_own_window_is_used_where_none_is_given() -> None:
    data = made(WindowCenter=[-100, 40], WindowWidth=[300, 400], VOILUTFunction="SIGMOID")
    (frame,) = slices(data)
    assert frame.window == Window(-100, 300, "SIGMOID")
    np.testing.assert_array_equal(
        read_ct(dicom_bytes(data), 24)[0], apply_window(body(), Window(-100, 300, "SIGMOID"))
    )
    assert reason_of(dicom_bytes(made(WindowWidth=0)), window=None) is Reason.BAD_WINDOW
    assert reason_of(dicom_bytes(made(WindowWidth=None)), window=None) is Reason.BAD_WINDOW


def test_monochrome1_is_shown_inverted() -> None:
    plain, inverted = made(), made(PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(
        read_ct(dicom_bytes(inverted), 24, WIDE), 255 - read_ct(dicom_bytes(plain), 24, WIDE)
    )


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
def test_every_axial_slice_comes_out_the_same_way(
    orientation: list[int], turn: Callable[[np.ndarray], np.ndarray]
) -> None:
    canonical = body(20, 24)
    stored = turn(canonical)  # how a scanner that stores slices this way stores this body
    data = made(stored, ImageOrientationPatient=orientation)
    (frame,) = slices(data)
    np.testing.assert_array_equal(frame.hounsfield, canonical)


def test_every_place_in_the_body_comes_out_at_its_place() -> None:
    # slow: each pixel's position by PS3.3 C.7.6.2.1.1, then sorted by back and left
    stored = body(5, 7)
    for orientation in (
        [0, 1, 0, -1, 0, 0],
        [0, -1, 0, 1, 0, 0],
        [-1, 0, 0, 0, 1, 0],
        [0, 1, 0, 1, 0, 0],
    ):
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
    assert (
        len(
            slices(
                made(
                    ImageOrientationPatient=[1, 0, 0, 0, float(np.cos(tilt)), float(-np.sin(tilt))]
                )
            )
        )
        == 1
    )


@pytest.mark.parametrize(
    "orientation",
    [
        *(
            None,
            [],
            [1, 0, 0],
            [0, 1, 0, 0, 0, -1],
            [1, 0, 0, 0, 0, -1],
            [1, 0, 0, 1, 0, 0],
            [2, 0, 0, 0, 2, 0],
            [0, 0, 0, 0, 0, 0],
        ),
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
    assert (
        read_ct(dicom_bytes(made(np.full((12, 24), 3000.0), PixelSpacing=[2, 1])), 24, WIDE)[
            0
        ].min()
        > 200
    )
    assert read_ct(
        dicom_bytes(made(np.full((12, 24), 3000.0), PixelSpacing=[2, 1])), 9, WIDE
    ).shape == (1, 9, 9)


def test_an_image_of_the_right_size_is_not_touched() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    np.testing.assert_array_equal(fit_to_square(grey, 16), grey)


# ---- frames


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
