"""Reasons and errors for files from outside that are refused.

A message never quotes the file's content, which may be a name. It gives numbers and fixed words.
"""

from enum import StrEnum
from typing import NoReturn


class Reason(StrEnum):
    """Why a file is in quarantine; also the name of its folder there."""

    NOT_DICOM = "not_dicom"
    NOT_AN_IMAGE = "not_an_image"
    NOT_CT = "not_ct"
    NO_SOP_UID = "no_sop_uid"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    BAD_PIXELS = "bad_pixels"
    BAD_RESCALE = "bad_rescale"
    BAD_WINDOW = "bad_window"
    BAD_GEOMETRY = "bad_geometry"
    BURNT_IN_ANNOTATION = "burnt_in_annotation"
    DUPLICATE = "duplicate"
    READER_DIED = "reader_died"


class RefusalError(ValueError):
    """A file is refused.

    Args:
        reason: Machine-readable cause.
        message: What, got, allowed, what to do; without anything that identifies a patient.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def refuse(
    kind: type[RefusalError], reason: Reason, got: str, allowed: str, what_to_do: str
) -> NoReturn:
    """Raise a refusal with the four parts of every message, hiding what the library said."""
    raise kind(reason, f"file: got {got}; allowed: {allowed}; {what_to_do}") from None
