"""Reads the image size from the header of a JPEG, JPEG-LS or JPEG 2000 frame without decoding.

A DICOM file may claim 64 x 64 pixels while the JPEG inside claims 60,000 x 60,000, and decoders
allocate what the JPEG claims. Markers: ITU-T T.81, T.87 and T.800.
"""

from dataclasses import dataclass

_START_OF_IMAGE = b"\xff\xd8"
_START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
_JPEG_2000_BOX = b"jP  "
# SOF0 to SOF15 without the markers of tables, and SOF55, which is JPEG-LS.
_SIZE_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True)
class FrameSize:
    """Size that a compressed frame states in its own header."""

    rows: int
    columns: int
    components: int


def frame_size(frame: bytes) -> FrameSize | None:
    """Return the size in a compressed frame's header; None if no size is found."""
    if frame.startswith(_START_OF_IMAGE):
        return _jpeg_size(frame)
    if frame[4:8] == _JPEG_2000_BOX:  # the codestream lies in boxes
        frame = frame[max(0, frame.find(_START_OF_CODESTREAM)) :]
    return _jpeg_2000_size(frame) if frame.startswith(_START_OF_CODESTREAM) else None


def _jpeg_size(frame: bytes) -> FrameSize | None:
    place = 2
    while place + 4 <= len(frame):
        if frame[place] != 0xFF:
            return None
        marker = frame[place + 1]
        if marker == 0xFF:  # padding between two segments
            place += 1
        elif marker in _WITHOUT_LENGTH:
            place += 2
        elif marker in _SIZE_MARKERS:
            # marker, length, precision, rows, columns, components
            part = frame[place + 5 : place + 10]
            return (
                FrameSize(_big_endian(part[:2]), _big_endian(part[2:4]), part[4])
                if len(part) == 5
                else None
            )
        else:
            place += 2 + max(2, _big_endian(frame[place + 2 : place + 4]))
    return None


def _jpeg_2000_size(frame: bytes) -> FrameSize | None:
    # SOC, SIZ, length, capabilities; eight words of 4 bytes (grid, offset, tile, tile's
    # offset); then the number of components
    header = frame[8:42]
    if len(header) < 34:
        return None
    width, height, left, top = (_big_endian(header[4 * at : 4 * at + 4]) for at in range(4))
    return FrameSize(height - top, width - left, _big_endian(header[32:34]))


def _big_endian(part: bytes) -> int:
    return int.from_bytes(part, "big")
