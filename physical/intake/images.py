"""Reads PNG, JPEG and NIfTI files as grey slices and writes copies without identity.

The archive copy is written anew from the pixels, without EXIF data, text chunks, and a NIfTI
header's free text and extensions.
"""

import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from physical.datasets.dicom import AIR_HU
from physical.datasets.dicom_file import Limits
from physical.datasets.greyscale import Window, apply_window, fit_to_square
from physical.datasets.refusal import Reason, RefusalError, refuse

PNG_MARK, JPEG_MARK, GZIP_MARK = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x1f\x8b"
_NIFTI_HEADER_BYTES = 352
_LEAST_COSINE = math.cos(math.radians(30))


class ImageFileError(RefusalError):
    """A PNG, JPEG or NIfTI file is refused; ``reason`` is the machine-readable cause."""


@dataclass(frozen=True)
class Picture:
    """Slices of a file, and the copy of the file that may be kept.

    Args:
        squares: Grey images, [F, S, S].
        copy: The file without anything that may identify a patient.
        source: Kind of file.
        ending: Ending of the copy's name.
    """

    squares: NDArray[np.uint8]
    copy: bytes
    source: Literal["png", "jpeg", "nifti"]
    ending: Literal[".png", ".nii"]


def read_picture(content: bytes, size: int, limits: Limits) -> Picture:
    """Return the grey values of a PNG or JPEG file; transparent pixels become black.

    Args:
        content: The file's bytes.
        size: Height and width of the result [px].
        limits: Size limits of the file.

    Raises:
        ImageFileError: If the file is refused.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(BytesIO(content), formats=["PNG", "JPEG"])  # reads the header alone
    except Image.DecompressionBombError:
        _refuse(
            Reason.TOO_LARGE,
            "a picture of more pixels than Pillow opens",
            f"sides of {limits.side_pixels}",
            "send it smaller",
        )
    except Exception:
        _refuse(Reason.NOT_AN_IMAGE, "a file that is no PNG or JPEG", "PNG and JPEG", "remove it")
    if (
        max(image.size) > limits.side_pixels
        or image.width * image.height * 4 > limits.decoded_bytes
    ):
        _refuse(
            Reason.TOO_LARGE,
            f"{image.height} x {image.width} pixels",
            f"sides of {limits.side_pixels}",
            "send it smaller",
        )
    source: Literal["png", "jpeg"] = "png" if image.format == "PNG" else "jpeg"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            grey = _grey(ImageOps.exif_transpose(image))
    except Exception:
        _refuse(
            Reason.TRUNCATED,
            "a picture that is cut short or damaged",
            "a whole file",
            "send it again",
        )
    stream = BytesIO()
    Image.fromarray(grey).save(stream, "PNG")
    return Picture(fit_to_square(grey, size)[None], stream.getvalue(), source, ".png")


def _grey(image: Any) -> NDArray[np.uint8]:
    """Return 8-bit grey values of a Pillow image; of 16-bit values the upper 8 bits."""
    from PIL import Image

    if image.mode.startswith("I"):
        return np.asarray(np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("no grey scale is known for floats")
    rgba = image.convert("RGBA")
    black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    return np.asarray(Image.alpha_composite(black, rgba).convert("L"))


def read_volume(content: bytes, size: int, window: Window | None, limits: Limits) -> Picture:
    """Return the axial slices of a NIfTI volume from the feet up, in radiological orientation.

    Slices have the front at the top and the patient's left on the right. Values are taken as
    Hounsfield units.

    Args:
        content: The file's bytes, gzipped or not.
        size: Height and width of the results [px].
        window: Densities shown as black and white; None: the header's cal_min to cal_max.
        limits: Size limits; unpacking of a gzipped file stops at them.

    Raises:
        ImageFileError: If the file is refused.
    """
    volume = _volume(
        _unpacked(content, limits) if content.startswith(GZIP_MARK) else content, limits
    )
    chosen = window or _own_window(volume)
    try:
        squares = [
            fit_to_square(apply_window(plane, chosen), size, spacing)
            for plane, spacing in _planes(volume)
        ]
    except RefusalError:
        raise
    except Exception:
        _refuse(
            Reason.BAD_PIXELS,
            "voxels that cannot be read",
            "whole or real numbers",
            "write it again",
        )
    return Picture(np.stack(squares), _stripped(volume), "nifti", ".nii")


def _unpacked(content: bytes, limits: Limits) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(content, limits.decoded_bytes + _NIFTI_HEADER_BYTES)
    except zlib.error:
        _refuse(Reason.TRUNCATED, "a damaged gzip file", "a whole file", "send it again")
    if stream.unconsumed_tail:
        _refuse(
            Reason.TOO_LARGE,
            "a volume that unpacks to too much",
            f"{limits.decoded_bytes:,} bytes",
            "raise the limits if it is wanted",
        )
    if not stream.eof:
        _refuse(Reason.TRUNCATED, "a gzip file that is cut short", "a whole file", "send it again")
    return plain


def _volume(content: bytes, limits: Limits) -> Any:
    """Return a volume whose form is checked and whose voxels are not yet read."""
    from nibabel.nifti1 import Nifti1Image

    logging.getLogger("nibabel").setLevel(logging.CRITICAL)  # it logs every damaged header
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            volume: Any = Nifti1Image.from_bytes(content)
            shape, kind, offset = volume.shape, volume.get_data_dtype(), int(volume.dataobj.offset)
    except Exception:
        _refuse(
            Reason.NOT_AN_IMAGE,
            "a file that is no NIfTI volume",
            "NIfTI-1 in one file",
            "remove it",
        )
    if (
        len(shape) < 3
        or min(shape) < 1
        or math.prod(shape) != math.prod(shape[:3])
        or kind.kind not in "iuf"
    ):
        _refuse(
            Reason.NOT_AN_IMAGE,
            f"an array of {len(shape)} axes",
            "a volume of one number a voxel",
            "split or convert it",
        )
    decoded = math.prod(shape) * kind.itemsize
    if max(shape) > max(limits.side_pixels, limits.frames) or decoded > limits.decoded_bytes:
        _refuse(
            Reason.TOO_LARGE,
            f"{shape[:3]} voxels, {decoded:,} bytes",
            f"{limits.decoded_bytes:,}",
            "raise the limits if it is wanted",
        )
    if len(content) < offset + decoded:
        _refuse(
            Reason.TRUNCATED, f"{len(content):,} bytes", f"{offset + decoded:,}", "send it again"
        )
    return volume


def _own_window(volume: Any) -> Window:
    low, high = float(volume.header["cal_min"]), float(volume.header["cal_max"])
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        _refuse(
            Reason.BAD_WINDOW,
            "no cal_min below cal_max",
            "a window",
            "set a window in Hounsfield units in the config",
        )
    return Window((low + high) / 2, high - low)


def _planes(volume: Any) -> Iterator[tuple[NDArray[np.float64], tuple[float, float]]]:
    """Yield axial slices with the distance of rows and columns; one at a time is in memory."""
    from nibabel import io_orientation

    if not (int(volume.header["qform_code"]) or int(volume.header["sform_code"])):
        _refuse(
            Reason.BAD_GEOMETRY,
            "a volume that does not say how it lies",
            "a qform or an sform",
            "write it with its orientation",
        )
    columns = np.asarray(volume.affine, np.float64)[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if not (
        np.isfinite(lengths).all()
        and lengths.min() > 0
        and (np.abs(columns / lengths).max(axis=0) >= _LEAST_COSINE).all()
    ):
        _refuse(
            Reason.BAD_GEOMETRY,
            "axes that are not the body's",
            "a tilt of at most 30 degrees",
            "resample it",
        )
    # input axis -> body axis (right, front, up) and sign
    orientation = io_orientation(volume.affine)  # type: ignore[no-untyped-call]  # untyped library
    place = {int(body): axis for axis, (body, _) in enumerate(orientation)}
    signs = [int(orientation[place[body]][1]) for body in range(3)]
    across = place[2]
    spacing = (float(lengths[place[1]]), float(lengths[place[0]]))
    for step in range(volume.shape[across])[:: signs[2]]:
        index: list[Any] = [slice(None)] * 3 + [0] * (len(volume.shape) - 3)
        index[across] = step
        plane = np.nan_to_num(np.asarray(volume.dataobj[tuple(index)], np.float64), nan=AIR_HU)
        if place[0] < place[1]:
            plane = plane.T  # now rows run along front, columns along right
        yield plane[:: -signs[1], :: -signs[0]], spacing


def _stripped(volume: Any) -> bytes:
    """Return the volume with a new header that holds numbers only."""
    from nibabel.nifti1 import Nifti1Image

    old = volume.header
    values, affine, dtype = volume.dataobj.get_unscaled(), volume.affine, volume.get_data_dtype()
    fresh: Any = Nifti1Image(values, affine, dtype=dtype)  # type: ignore[no-untyped-call]  # untyped
    fresh.header["cal_min"], fresh.header["cal_max"] = old["cal_min"], old["cal_max"]
    fresh.header.set_slope_inter(volume.dataobj.slope, volume.dataobj.inter)
    return bytes(fresh.to_bytes())


def _refuse(reason: Reason, got: str, allowed: str, what_to_do: str) -> NoReturn:
    refuse(ImageFileError, reason, got, allowed, what_to_do)
