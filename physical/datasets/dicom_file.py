"""A DICOM file is judged and decoded: form, kind, sizes, then pixels.

The cheap and safe steps come first; nothing is decoded before its size is known and allowed. What
cannot be taken is a ``DicomError`` with a reason. Not read on purpose: the Deflated transfer
syntax, whose size cannot be known before it is unpacked.
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
# Of pydicom in one file: bounds the number of elements, whose objects are larger than their bytes.
_MOST_READS = 1_000_000


class DicomError(RefusalError):
    """A DICOM file cannot be taken; ``reason`` says why in a word."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Limits:
    """How large a file may be that comes from outside; checked before anything is unpacked.

    Args:
        file_bytes: Size of the file.
        side_pixels: Rows and columns of a frame.
        frames: Frames of a file.
        decoded_bytes: All frames of a file, unpacked.
    """

    file_bytes: int = 256 << 20
    side_pixels: int = 2048
    frames: int = 2048
    decoded_bytes: int = 512 << 20

    def __post_init__(self) -> None:
        """Check that nothing is zero."""
        if min(self.file_bytes, self.side_pixels, self.frames, self.decoded_bytes) < 1:
            raise ValueError(f"limits are {self}; allowed: 1 and more; correct what is smaller")


def parse_ct(content: bytes, limits: Limits) -> "Dataset":
    """Return a file's data set if it is a whole CT image of allowed size; nothing is decoded.

    Raises:
        DicomError: If it is not.
    """
    if len(content) > limits.file_bytes:
        refuse_dicom(
            Reason.TOO_LARGE,
            f"{len(content):,} bytes",
            f"{limits.file_bytes:,}",
            "raise limits.file_bytes if it is wanted",
        )
    dataset = _parsed(content)
    _check_kind(dataset)
    _check_form(dataset, limits)
    return dataset


@contextmanager
def quietly() -> Iterator[None]:
    """Keep pydicom from quoting values, which may be names, in warnings and logs.

    Its log stays silent for good.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _parsed(content: bytes) -> "Dataset":
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
        with quietly():
            dataset = dcmread(_Counted(content))
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


class _Counted(BytesIO):
    """A file in memory that notices when it is read in too many pieces."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MOST_READS:
            refuse_dicom(
                Reason.TOO_LARGE, f"more than {_MOST_READS:,} elements", "fewer", ASK_SENDER
            )
        return super().read(size)


def _end_of_last_element(dataset: "Dataset", num_bytes: int) -> int | None:
    """Return where the data set ends.

    None if an element has fewer bytes than it says: pydicom passes over that in silence.
    """
    from pydicom.dataelem import RawDataElement

    ending = 0
    tags = dataset.keys()  # a data set iterates over its values
    for element in (dataset.get_item(tag) for tag in tags):
        if isinstance(element, RawDataElement):
            held = len(element.value or b"")
            if element.length == 0xFFFFFFFF:
                ending = max(ending, element.value_tell + held + 8)  # the delimiter
            elif held < element.length:
                return None
            else:
                ending = max(ending, element.value_tell + held)
        else:  # a sequence of unknown length has been read to its end; where that is, nobody tells
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
    """Check sizes, types and the pixels' length; compressed frames by their own headers."""
    rows, columns, bits = (
        _whole(dataset, keyword) for keyword in ("Rows", "Columns", "BitsAllocated")
    )
    frames = (
        _whole(dataset, "NumberOfFrames") if value_of(dataset, "NumberOfFrames") is not None else 1
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
    stored, sign = _whole(dataset, "BitsStored"), _whole(dataset, "PixelRepresentation")
    fits = (
        bits in (8, 16)
        and 1 <= stored <= bits
        and _whole(dataset, "HighBit") == stored - 1
        and sign in (0, 1)
    )
    grey = _whole(dataset, "SamplesPerPixel") == 1 and value_of(
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
            "a compression nobody here reads",
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
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def _check_frames(dataset: "Dataset", rows: int, columns: int, frames: int, num_bytes: int) -> None:
    from pydicom.encaps import generate_frames

    most = (
        rows * columns * num_bytes * 9 // 8 + 1024
    )  # a run-length coded frame grows by a 128th at most, and has a header
    found = 0
    try:
        with quietly():
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
    """Return the pixels as they are stored, decoded, unused bits cleared, [F, H, W].

    Raises:
        DicomError: If they cannot be decoded.
    """
    _check_form(dataset, limits)  # a data set may come from elsewhere: nothing is decoded unchecked
    from pydicom.pixels.decoders.base import get_decoder

    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    plugin = (
        "pylibjpeg" if "pylibjpeg" in decoder.available_plugins else ""
    )  # Pillow reads no signed pixels
    try:
        with quietly():
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
    """Return an element's value; None where it is absent, empty or cannot be read.

    Nothing is said about a bad value: it may be a name.
    """
    try:
        with quietly():
            return dataset.get(keyword)
    except Exception:
        return None


def _whole(dataset: "Dataset", keyword: str) -> int:
    value = value_of(dataset, keyword)
    try:
        return int(value)
    except (TypeError, ValueError):
        refuse_dicom(Reason.BAD_PIXELS, f"no {keyword}", "a whole number", ASK_SENDER)


def refuse_dicom(reason: Reason, got: str, allowed: str, what_to_do: str) -> NoReturn:
    """Raise a ``DicomError`` with the four parts that each message has."""
    refuse(DicomError, reason, got, allowed, what_to_do)
