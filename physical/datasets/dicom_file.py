"""Checks and decodes DICOM CT files that come from outside: format, kind, sizes, then pixels.

Cheap and safe checks come first, and nothing is decoded before its size is known and allowed. A
refused file raises a ``DicomError`` with a reason. The Deflated transfer syntax is refused
because its size is unknown before it is unpacked.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from physical.datasets.codestream import frame_size
from physical.datasets.refusal import Reason, RefusalError, refuse

if TYPE_CHECKING:
    from pydicom import Dataset

CT_CLASSES = frozenset(
    {"1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"}
)
"""CT Image Storage, Enhanced CT Image Storage, Legacy Converted Enhanced CT Image Storage."""
ASK_SENDER = "ask the sender for the original CT slices"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_RLE = "1.2.840.10008.1.2.5"
# Largest number of reads by pydicom in one file. It bounds the number of elements, whose Python
# objects need more memory than their bytes.
_MOST_READS = 1_000_000


class DicomError(RefusalError):
    """A DICOM file is refused; ``reason`` is the machine-readable cause."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Limits:
    """Size limits of files from outside, checked before anything is unpacked.

    Args:
        file_bytes: Size of the file [bytes].
        side_pixels: Rows and columns of a frame [px].
        frames: Number of frames in a file.
        decoded_bytes: Size of all frames of a file after decoding [bytes].
    """

    file_bytes: int = 256 << 20
    side_pixels: int = 2048
    frames: int = 2048
    decoded_bytes: int = 512 << 20

    def __post_init__(self) -> None:
        """Check that every limit is at least 1."""
        if min(self.file_bytes, self.side_pixels, self.frames, self.decoded_bytes) < 1:
            raise ValueError(f"limits are {self}; allowed: 1 and more; correct what is smaller")


def parse_ct(content: bytes, limits: Limits) -> "Dataset":
    """Return a file's data set if it is a complete CT image of allowed size; decode nothing.

    Raises:
        DicomError: If the file is refused.
    """
    if len(content) > limits.file_bytes:
        refuse_dicom(
            Reason.TOO_LARGE,
            f"{len(content):,} bytes",
            f"{limits.file_bytes:,}",
            "raise limits.file_bytes if it is wanted",
        )
    dataset = _parse(content)
    _check_kind(dataset)
    _check_form(dataset, limits)
    return dataset


@contextmanager
def silence_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings and log, which may quote patients' names.

    The log level stays changed after the context ends.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _parse(content: bytes) -> "Dataset":
    if content[128:132] != b"DICM":
        refuse_dicom(
            Reason.NOT_DICOM,
            "a file without DICOM's mark",
            "DICOM files of PS3.10",
            "remove it, or have it sent as DICOM",
        )
    if _DEFLATED in content:
        refuse_dicom(
            Reason.UNSUPPORTED_TRANSFER_SYNTAX,
            "a deflated data set",
            "uncompressed or compressed pixels",
            "send it undeflated",
        )
    from pydicom import dcmread

    try:
        with silence_pydicom():
            dataset = dcmread(_LimitedReads(content))
            ending = _end_of_last_element(dataset, len(content))
    except DicomError:
        raise
    except Exception:
        refuse_dicom(
            Reason.TRUNCATED,
            "DICOM elements that end too early or are damaged",
            "a whole file",
            "send it again",
        )
    if ending is None or content[ending:].strip(b"\0"):
        refuse_dicom(
            Reason.TRUNCATED,
            "a file that ends in the middle of an element",
            "a whole file",
            "send it again",
        )
    return dataset


class _LimitedReads(BytesIO):
    """A file in memory that refuses to be read in too many pieces."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MOST_READS:
            refuse_dicom(
                Reason.TOO_LARGE, f"more than {_MOST_READS:,} elements", "fewer", ASK_SENDER
            )
        return super().read(size)


def _end_of_last_element(dataset: "Dataset", num_bytes: int) -> int | None:
    """Return where the data set ends; None if an element is shorter than it says.

    pydicom reads such an element without an error.
    """
    from pydicom.dataelem import RawDataElement

    ending = 0
    for element in map(dataset.get_item, dataset.keys()):
        if isinstance(element, RawDataElement):
            held = len(element.value or b"")
            if element.length == 0xFFFFFFFF:
                ending = max(ending, element.value_tell + held + 8)  # the delimiter
            elif held < element.length:
                return None
            else:
                ending = max(ending, element.value_tell + held)
        else:  # a sequence of unknown length was read to its end, whose position is not recorded
            ending = max(ending, num_bytes if element.tag == max(dataset.keys()) else 0)
    return ending if ending <= num_bytes else None


def _check_kind(dataset: "Dataset") -> None:
    if "PixelData" not in dataset:
        refuse_dicom(
            Reason.NOT_AN_IMAGE,
            "a data set without pixels",
            "CT images",
            "keep reports and plans out of this folder",
        )
    if (
        str(value_of(dataset, "SOPClassUID")) not in CT_CLASSES
        or value_of(dataset, "Modality") != "CT"
    ):
        refuse_dicom(
            Reason.NOT_CT,
            "an image that is no CT",
            "CT Image Storage and Enhanced CT, modality CT",
            "send CT slices only",
        )
    uid = str(value_of(dataset, "SOPInstanceUID") or "")
    if not uid.replace(".", "").isdecimal() or len(uid) > 64:
        refuse_dicom(
            Reason.NO_SOP_UID,
            "no valid SOP Instance UID",
            "one of at most 64 digits and points",
            "have the sender repair it",
        )
    if str(value_of(dataset, "BurnedInAnnotation") or "").upper() == "YES":
        refuse_dicom(
            Reason.BURNT_IN_ANNOTATION,
            "pixels marked as having text burnt in",
            "pixels without text",
            ASK_SENDER,
        )


def _check_form(dataset: "Dataset", limits: Limits) -> None:
    """Check sizes, types and the length of the pixels; compressed frames by their own headers."""
    rows, columns, bits = (
        _integer(dataset, keyword) for keyword in ("Rows", "Columns", "BitsAllocated")
    )
    frames = (
        _integer(dataset, "NumberOfFrames")
        if value_of(dataset, "NumberOfFrames") is not None
        else 1
    )
    if min(rows, columns, frames) < 1:
        refuse_dicom(
            Reason.BAD_PIXELS, f"{frames} frames of {rows} x {columns}", "1 and more", ASK_SENDER
        )
    decoded = rows * columns * frames * bits // 8
    if (
        max(rows, columns) > limits.side_pixels
        or frames > limits.frames
        or decoded > limits.decoded_bytes
    ):
        allowed = (
            f"sides of {limits.side_pixels}, {limits.frames} frames, {limits.decoded_bytes:,} bytes"
        )
        refuse_dicom(
            Reason.TOO_LARGE,
            f"{frames} frames of {rows} x {columns}, {decoded:,} bytes",
            allowed,
            "raise the limits if it is wanted",
        )
    stored, sign = _integer(dataset, "BitsStored"), _integer(dataset, "PixelRepresentation")
    fits = (
        bits in (8, 16)
        and 1 <= stored <= bits
        and _integer(dataset, "HighBit") == stored - 1
        and sign in (0, 1)
    )
    grey = _integer(dataset, "SamplesPerPixel") == 1 and value_of(
        dataset, "PhotometricInterpretation"
    ) in ("MONOCHROME1", "MONOCHROME2")
    if not (fits and grey):
        refuse_dicom(
            Reason.BAD_PIXELS,
            f"{stored} of {bits} bits",
            "grey pixels of 8 or 16 bits, the stored ones at the bottom",
            ASK_SENDER,
        )
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or not _can_decode(syntax):
        refuse_dicom(
            Reason.UNSUPPORTED_TRANSFER_SYNTAX,
            "a compression without a decoder here",
            "what pydicom's plug-ins read",
            "send it uncompressed",
        )
    if syntax.is_encapsulated:
        _check_frames(dataset, rows, columns, frames, bits // 8)
    elif not decoded <= len(dataset.PixelData) < decoded + max(2, decoded // frames):
        refuse_dicom(
            Reason.BAD_PIXELS,
            f"{len(dataset.PixelData):,} bytes of pixels",
            f"{decoded:,}",
            "send it again",
        )


def _can_decode(syntax: Any) -> bool:
    from pydicom.pixels.decoders.base import get_decoder

    try:
        with silence_pydicom():
            return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _check_frames(dataset: "Dataset", rows: int, columns: int, frames: int, num_bytes: int) -> None:
    from pydicom.encaps import generate_frames

    # A run-length coded frame grows by a 128th at most, and has a header.
    most = rows * columns * num_bytes * 9 // 8 + 1024
    found = 0
    try:
        with silence_pydicom():
            for frame in generate_frames(dataset.PixelData, number_of_frames=frames):
                found += 1
                if dataset.file_meta.TransferSyntaxUID == _RLE:
                    fits = len(frame) <= most
                else:
                    size = frame_size(frame)
                    fits = size is not None and (size.rows, size.columns, size.components) == (
                        rows,
                        columns,
                        1,
                    )
                if not fits:
                    refuse_dicom(
                        Reason.BAD_PIXELS,
                        "a compressed frame of another size",
                        f"{rows} x {columns}, grey",
                        "send it again",
                    )
    except DicomError:
        raise
    except Exception:
        refuse_dicom(
            Reason.BAD_PIXELS,
            "compressed frames that cannot be told apart",
            f"{frames} frames",
            "send it again",
        )
    if found != frames:
        refuse_dicom(Reason.BAD_PIXELS, f"{found} compressed frames", f"{frames}", "send it again")


def stored_values(dataset: "Dataset", limits: Limits) -> NDArray[np.integer]:
    """Return the decoded pixels as stored, with unused bits cleared, [F, H, W].

    Raises:
        DicomError: If they cannot be decoded.
    """
    _check_form(dataset, limits)  # the caller may pass a data set that parse_ct has not checked
    from pydicom.pixels.decoders.base import get_decoder

    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    # Pillow cannot read signed pixels.
    plugin = "pylibjpeg" if "pylibjpeg" in decoder.available_plugins else ""
    try:
        with silence_pydicom():
            options: dict[str, Any] = {"allow_excess_frames": False}
            values, _ = decoder.as_array(dataset, raw=True, decoding_plugin=plugin, **options)
        return np.asarray(values).reshape(-1, rows, columns)
    except Exception:
        refuse_dicom(
            Reason.BAD_PIXELS,
            "pixels that cannot be decoded",
            "what the transfer syntax says",
            "send it again",
        )


def value_of(dataset: "Dataset", keyword: str) -> Any:
    """Return an element's value; None if it is absent, empty or unreadable.

    A bad value is not reported, because it may contain a name.
    """
    try:
        with silence_pydicom():
            return dataset.get(keyword)
    except Exception:
        return None


def _integer(dataset: "Dataset", keyword: str) -> int:
    value = value_of(dataset, keyword)
    try:
        return int(value)
    except (TypeError, ValueError):
        refuse_dicom(Reason.BAD_PIXELS, f"no {keyword}", "a whole number", ASK_SENDER)


def refuse_dicom(reason: Reason, got: str, allowed: str, what_to_do: str) -> NoReturn:
    """Raise a ``DicomError`` with the four parts of every message."""
    refuse(DicomError, reason, got, allowed, what_to_do)
