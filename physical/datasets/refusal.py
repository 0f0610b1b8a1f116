"""Why a file that came from outside is not taken: a word for the machine, a sentence for people.

A message never quotes what stands in the file: it may be a name. It gives numbers, and words of
ours.
"""

from enum import StrEnum
from typing import NoReturn


class Reason(StrEnum):
    """Why a file lies in quarantine; also the name of its folder there."""

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
    """A file cannot be taken.

    Args:
        reason: The word.
        message: What, got, allowed, what to do; without anything that identifies a patient.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def refuse(
    kind: type[RefusalError], reason: Reason, got: str, allowed: str, what_to_do: str
) -> NoReturn:
    """Raise a refusal of a file with the four parts that each message has.

    What pydicom or Pillow said is not repeated.
    """
    raise kind(reason, f"file: got {got}; allowed: {allowed}; {what_to_do}") from None
