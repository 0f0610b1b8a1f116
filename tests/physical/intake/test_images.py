import gzip
import struct
import zlib
from io import BytesIO
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from physical.datasets.dicom_file import Limits
from physical.datasets.greyscale import Window, apply_window
from physical.datasets.refusal import Reason
from physical.intake.images import ImageFileError, read_picture, read_volume

LIMITS = Limits()
WIDE = Window(0, 2000)


def picture(
    mode: str = "L", kind: str = "PNG", size: tuple[int, int] = (16, 16), **options: Any
) -> bytes:
    grey = Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[::-1]))
    stream = BytesIO()
    grey.convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def nifti(values: NDArray[Any], affine: NDArray[Any]) -> Any:
    return nib.Nifti1Image(values, affine)


def volume(
    shape: tuple[int, ...] = (6, 5, 4),
    affine: NDArray[Any] | None = None,
    dtype: str = "int16",
    **header: Any,
) -> bytes:
    values = (np.arange(np.prod(shape)).reshape(shape) * 7 - 400).astype(dtype)
    image = nifti(values, np.diag([-1.0, -1.0, 2.0, 1.0]) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    content: bytes = image.to_bytes()
    return content


def reason_of(
    content: bytes, limits: Limits = LIMITS, window: Window | None = WIDE, nifti: bool = False
) -> Reason:
    with pytest.raises(ImageFileError) as caught:
        read_volume(content, 8, window, limits) if nifti else read_picture(content, 8, limits)
    assert "allowed:" in str(caught.value)
    return caught.value.reason


def test_grey_pictures_are_taken_as_they_are() -> None:
    taken = read_picture(picture(), 16, LIMITS)
    np.testing.assert_array_equal(taken.squares[0].ravel(), np.arange(256))
    assert (taken.source, taken.ending) == ("png", ".png")
    assert read_picture(picture(kind="JPEG", quality=100), 16, LIMITS).source == "jpeg"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_colours_become_grey(mode: str) -> None:
    assert read_picture(picture(mode), 8, LIMITS).squares.shape == (1, 8, 8)


def test_the_upper_eight_of_sixteen_bits_are_used() -> None:
    stream = BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 256 + 255).save(stream, "PNG")
    np.testing.assert_array_equal(
        read_picture(stream.getvalue(), 16, LIMITS).squares[0].ravel(), np.arange(256)
    )


def test_what_is_transparent_is_black() -> None:
    stream = BytesIO()
    Image.new("RGBA", (16, 16), (255, 255, 255, 0)).save(stream, "PNG")
    assert read_picture(stream.getvalue(), 16, LIMITS).squares.max() == 0


def test_a_picture_is_turned_by_its_exif_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    half = Image.fromarray(np.repeat([[255], [0]], 8, axis=0).repeat(16, axis=1).astype(np.uint8))
    stream = BytesIO()
    half.save(stream, "JPEG", exif=exif, quality=100)
    square = read_picture(stream.getvalue(), 16, LIMITS).squares[0]
    assert square[:, 9:].min() > 200
    assert square[:, :7].max() < 50


def test_texts_of_a_picture_are_not_kept() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "ZORBLAX")
    content = picture(pnginfo=info)
    assert b"ZORBLAX" in content
    assert b"ZORBLAX" not in read_picture(content, 16, LIMITS).copy
    exif = Image.Exif()
    exif[0x010E] = "ZORBLAX"
    content = picture(kind="JPEG", exif=exif)
    assert b"ZORBLAX" in content
    assert b"ZORBLAX" not in read_picture(content, 16, LIMITS).copy


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("width", "height"), [(2049, 1), (1, 5000), (10_000, 10_000), (60_000, 60_000)]
)
def test_decompression_bombs_are_not_opened(width: int, height: int) -> None:
    assert reason_of(png_that_claims(width, height)) is Reason.TOO_LARGE


def test_a_broken_picture_has_a_reason() -> None:
    stream = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)).save(
        stream, "PNG"
    )
    whole = stream.getvalue()
    assert reason_of(b"") is Reason.NOT_AN_IMAGE
    assert reason_of(b"GIF89a" + whole) is Reason.NOT_AN_IMAGE
    assert {reason_of(whole[:length]) for length in (100, 1000, 4000)} == {Reason.TRUNCATED}


def test_axial_slices_come_from_the_feet_up() -> None:
    # x to the right, y to the back: the array's first axis runs to the patient's left
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    values = np.arange(8 * 8 * 3).reshape(8, 8, 3).astype(np.int16)
    content = nifti(values, affine).to_bytes()
    taken = read_volume(content, 8, WIDE, LIMITS)
    assert taken.squares.shape == (3, 8, 8)
    for step in range(3):
        np.testing.assert_array_equal(
            taken.squares[step], apply_window(values[:, :, step].T * 1.0, WIDE)
        )


@given(st.permutations([0, 1, 2]), st.tuples(*[st.sampled_from([-1, 1])] * 3))
def test_a_volume_is_the_same_however_it_is_stored(
    axes: list[int], signs: tuple[int, int, int]
) -> None:
    values = np.arange(6 * 6 * 6).reshape(6, 6, 6).astype(np.int16) * 4  # right, front, up
    affine = np.eye(4)
    stored = values.transpose(axes)
    turned = np.zeros((4, 4))
    turned[3, 3] = 1
    for axis, (body, sign) in enumerate(zip(axes, signs, strict=True)):
        turned[body, axis] = sign
        if sign < 0:
            stored = np.flip(stored, axis)
    expected = read_volume(nifti(values, affine).to_bytes(), 6, WIDE, LIMITS).squares
    np.testing.assert_array_equal(
        read_volume(nifti(stored, turned).to_bytes(), 6, WIDE, LIMITS).squares, expected
    )


def test_gzip_and_four_axes_change_nothing_and_scaling_counts() -> None:
    plain = read_volume(volume(), 8, WIDE, LIMITS).squares
    np.testing.assert_array_equal(
        read_volume(gzip.compress(volume()), 8, WIDE, LIMITS).squares, plain
    )
    np.testing.assert_array_equal(read_volume(volume((6, 5, 4, 1)), 8, WIDE, LIMITS).squares, plain)
    content = bytearray(volume())
    content[112:120] = struct.pack("<ff", 2.0, -10.0)  # scl_slope, scl_inter
    scaled = read_volume(bytes(content), 8, WIDE, LIMITS)
    assert (scaled.squares != plain).any()
    np.testing.assert_array_equal(read_volume(scaled.copy, 8, WIDE, LIMITS).squares, scaled.squares)


def test_voxels_without_a_number_are_air() -> None:
    values = np.full((6, 6, 2), np.nan, np.float32)
    values[0, 0, 0] = 500
    assert (
        read_volume(nifti(values, np.eye(4)).to_bytes(), 6, WIDE, LIMITS).squares.max()
        == apply_window(np.array([500.0]), WIDE)[0]
    )


def test_a_volumes_own_window_is_used_where_none_is_given() -> None:
    taken = read_volume(volume(cal_min=-100, cal_max=300), 8, None, LIMITS)
    np.testing.assert_array_equal(
        taken.squares, read_volume(volume(), 8, Window(100, 400), LIMITS).squares
    )
    assert reason_of(volume(), window=None, nifti=True) is Reason.BAD_WINDOW


def test_texts_of_a_volume_are_not_kept() -> None:
    image = nifti(np.zeros((6, 5, 4), np.int16), np.eye(4))
    image.header["descrip"] = image.header["db_name"] = b"ZORBLAX"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"ZORBLAX was here"))
    content = image.to_bytes()
    assert content.count(b"ZORBLAX") == 3
    assert b"ZORBLAX" not in read_volume(content, 8, WIDE, LIMITS).copy


def test_a_broken_volume_has_a_reason() -> None:
    whole = volume()
    for content, reason in {
        b"": Reason.NOT_AN_IMAGE,
        b"\0" * 400: Reason.NOT_AN_IMAGE,
        whole[:-1]: Reason.TRUNCATED,
        gzip.compress(whole)[:-5]: Reason.TRUNCATED,
        b"\x1f\x8b" + b"x" * 100: Reason.TRUNCATED,
        gzip.compress(b"a tar archive perhaps"): Reason.NOT_AN_IMAGE,
        volume((6, 5, 4, 3)): Reason.NOT_AN_IMAGE,
        volume(dtype="complex64"): Reason.NOT_AN_IMAGE,
        volume(
            affine=np.array([[1.0, 1, 0, 0], [1, -1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        ): Reason.BAD_GEOMETRY,
        whole[:252] + b"\0" * 4 + whole[256:]: Reason.BAD_GEOMETRY,
    }.items():
        assert reason_of(content, nifti=True) is reason


def test_volumes_that_are_too_large_are_not_unpacked() -> None:
    assert (
        reason_of(gzip.compress(b"\0" * 2_000_000), Limits(decoded_bytes=100_000), nifti=True)
        is Reason.TOO_LARGE
    )
    assert reason_of(volume(), Limits(decoded_bytes=239), nifti=True) is Reason.TOO_LARGE
    assert (
        reason_of(volume((6, 5, 4)), Limits(side_pixels=5, frames=5), nifti=True)
        is Reason.TOO_LARGE
    )
    claims = bytearray(volume())
    claims[42:48] = struct.pack("<hhh", 30_000, 30_000, 30_000)
    assert reason_of(bytes(claims), nifti=True) is Reason.TOO_LARGE
