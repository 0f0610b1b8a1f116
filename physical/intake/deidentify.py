"""A data set without its patient: PS3.15 Annex E, basic profile, as a closed list.

The basic profile names what to remove. This table is stricter: it names what may stay (what a CT's
pixels need to be understood) and what is emptied or replaced; all else goes, among it all private
elements, overlays, curves, dates, free text and references, and whatever future editions add.
Pixels are written anew from their decoded values: comments inside of a JPEG, unused high bits and
bytes behind the last pixel are not carried over. What is drawn into the pixels themselves stays:
files flagged so are refused earlier.
"""

import re
from enum import Enum
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from physical.datasets.dicom import quietly, value_of
from physical.intake.pseudonyms import Pseudonyms

if TYPE_CHECKING:
    from pydicom import Dataset

IMPLEMENTATION_UID = "2.25.201934820139874650238476109283746501"
"""Names this program as the writer of a file, as DICOM wants it; made once at random."""
METHOD = "PS3.15 basic profile as a closed list; keyed pseudonyms"


class Action(Enum):
    """What becomes of an element."""

    KEEP = "keep"
    EMPTY = "empty"
    REPLACE_UID = "replace UID"
    PSEUDONYM = "pseudonym"
    REMOVE = "remove"


def _all(action: Action, keywords: str) -> dict[str, Action]:
    return dict.fromkeys(keywords.split(), action)


TABLE: dict[str, Action] = {
    **_all(
        Action.REPLACE_UID, "SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID"
    ),
    **_all(Action.PSEUDONYM, "PatientName PatientID"),
    **_all(
        Action.EMPTY,  # a CT must have them, but may have them without a value
        "StudyDate StudyTime AccessionNumber ReferringPhysicianName PatientBirthDate PatientSex "
        "StudyID SeriesNumber Manufacturer "
        "PositionReferenceIndicator",
    ),
    **_all(
        Action.KEEP,
        "SOPClassUID Modality ImageType BodyPartExamined Laterality ImageLaterality "
        "PatientPosition BurnedInAnnotation",
    ),
    **_all(
        Action.KEEP,
        "KVP SliceThickness SpacingBetweenSlices GantryDetectorTilt ReconstructionDiameter "
        "AcquisitionNumber InstanceNumber",
    ),
    **_all(Action.KEEP, "ImagePositionPatient ImageOrientationPatient SliceLocation PixelSpacing"),
    **_all(
        Action.KEEP,
        "SamplesPerPixel NumberOfFrames Rows Columns BitsAllocated BitsStored HighBit "
        "PixelRepresentation",
    ),
    **_all(
        Action.KEEP,
        "PhotometricInterpretation PixelPaddingValue PixelPaddingRangeLimit LossyImageCompression",
    ),
    **_all(
        Action.KEEP,
        "RescaleSlope RescaleIntercept RescaleType WindowCenter WindowWidth VOILUTFunction",
    ),
    **_all(
        Action.KEEP,
        "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PlaneOrientationSequence "
        "PlanePositionSequence",
    ),
    **_all(
        Action.KEEP, "PixelMeasuresSequence PixelValueTransformationSequence FrameVOILUTSequence"
    ),
}
"""Keyword -> action; what is not in it is removed, at every depth."""
_NUMBERS = frozenset({"DS", "IS", "US", "SS", "UL", "SL", "FD", "FL"})
_CODE = re.compile(r"[A-Za-z0-9 _-]{0,16}")


def action_of(keyword: str) -> Action:
    """Return what becomes of elements with this keyword."""
    return TABLE.get(keyword, Action.REMOVE)


def deidentified(
    dataset: "Dataset", stored: NDArray[np.integer], pseudonyms: Pseudonyms
) -> "Dataset":
    """Return a new data set of the same image, without identity, its pixels uncompressed.

    The same input and key give the same bytes.

    Args:
        dataset: A whole CT image.
        stored: Its decoded pixels, [F, H, W].
        pseudonyms: With the hospital's key.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    with quietly():
        clean = _cleaned(dataset, pseudonyms)
        clean.PatientName = clean.PatientID = _patient(dataset, pseudonyms)
        clean.PatientIdentityRemoved = "YES"
        clean.LongitudinalTemporalInformationModified = "REMOVED"
        clean.DeidentificationMethod = METHOD
        clean.DeidentificationMethodCodeSequence = [_basic_profile()]
        kind = f"<u{stored.dtype.itemsize}"
        clean.BitsAllocated = 8 * stored.dtype.itemsize
        pixels = stored.astype(stored.dtype.newbyteorder("<")).view(kind) & (
            (1 << int(clean.BitsStored)) - 1
        )
        content = pixels.astype(kind).tobytes()
        clean.add_new(
            "PixelData",
            "OW" if stored.dtype.itemsize > 1 else "OB",
            content + b"\0" * (len(content) % 2),
        )
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
            clean.SOPClassUID,
            clean.SOPInstanceUID,
        )
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = IMPLEMENTATION_UID  # type: ignore[assignment]  # pydicom
        meta.ImplementationVersionName = "FEDKA"
        clean.file_meta = meta
    return clean


def to_bytes(dataset: "Dataset") -> bytes:
    """Return a data set as a DICOM file."""
    from pydicom import dcmwrite

    stream = BytesIO()
    with quietly():
        dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def _patient(dataset: "Dataset", pseudonyms: Pseudonyms) -> str:
    """Return the patient's pseudonym.

    Where the sender gives no number, a patient is as long as a study.
    """
    number = str(value_of(dataset, "PatientID") or "").strip()
    if number:
        return pseudonyms.of(
            "patient", number, str(value_of(dataset, "IssuerOfPatientID") or "").strip()
        )
    return pseudonyms.of(
        "patient of study", str(value_of(dataset, "StudyInstanceUID") or dataset.SOPInstanceUID)
    )


def _cleaned(dataset: "Dataset", pseudonyms: Pseudonyms) -> "Dataset":
    from pydicom import Dataset

    clean = Dataset()
    for element in _readable(dataset):
        action = action_of(element.keyword)
        if action is Action.EMPTY:
            clean.add_new(element.tag, element.VR, None)
        elif action is Action.REPLACE_UID:
            if element.value:
                clean.add_new(element.tag, "UI", pseudonyms.uid(str(element.value)))
        elif action is Action.KEEP:
            if element.VR == "SQ":
                clean.add_new(
                    element.tag, "SQ", [_cleaned(item, pseudonyms) for item in element.value]
                )
            elif (
                element.VR in _NUMBERS
                or element.keyword == "SOPClassUID"
                or _is_code(element.value)
            ):
                clean.add_new(element.tag, element.VR, element.value)
    return clean


# Pydicom's elements have no type without an import.
def _readable(dataset: "Dataset"):  # type: ignore[no-untyped-def]  # any
    """Yield the elements of the table whose values can be read.

    A value that cannot be read is not carried over.
    """
    for tag in _tags():
        if tag not in dataset:
            continue
        try:
            yield dataset[tag]
        except Exception:  # what is missing is noticed where it is needed
            continue


@cache
def _tags() -> tuple[int, ...]:
    """Return the table's tags, in the order of a file."""
    from pydicom.datadict import tag_for_keyword

    return tuple(sorted(tag for tag in map(tag_for_keyword, TABLE) if tag is not None))


def _is_code(value: object) -> bool:
    """Return whether a value is a code string, or several: words that might hold a name are not."""
    single = isinstance(value, str) or value is None
    parts = [value] if single else list(value)  # type: ignore[call-overload]  # checked at run time
    return all(_CODE.fullmatch(str(part or "")) for part in parts)


def _basic_profile() -> "Dataset":
    from pydicom import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    return code
