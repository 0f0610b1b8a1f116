"""De-identifies a DICOM data set: PS3.15 Annex E, basic profile, as a closed list.

The basic profile lists what to remove. This table is stricter: it lists what is kept (elements
needed to understand a CT's pixels), emptied or replaced. All else is removed: private elements,
overlays, curves, dates, free text, references, and whatever future editions add. Pixels are
written anew from their decoded values, without comments inside a JPEG, unused high bits or bytes
after the last pixel. Text drawn into the pixels stays: files flagged so are refused earlier.
"""

import re
from collections.abc import Iterator
from enum import Enum
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from physical.datasets.dicom_file import silence_pydicom, value_of
from physical.intake.pseudonyms import Pseudonyms

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

IMPLEMENTATION_UID = "2.25.201934820139874650238476109283746501"
"""UID of this program as the writer of a file; drawn once at random."""
METHOD = "PS3.15 basic profile as a closed list; keyed pseudonyms"


class Action(Enum):
    """What de-identification does with an element."""

    KEEP = "keep"
    EMPTY = "empty"
    REPLACE_UID = "replace UID"
    PSEUDONYM = "pseudonym"
    REMOVE = "remove"


def _with_action(action: Action, keywords: str) -> dict[str, Action]:
    return dict.fromkeys(keywords.split(), action)


_KEPT = """
    SOPClassUID Modality ImageType BodyPartExamined Laterality ImageLaterality PatientPosition
    BurnedInAnnotation KVP SliceThickness SpacingBetweenSlices GantryDetectorTilt
    ReconstructionDiameter AcquisitionNumber InstanceNumber ImagePositionPatient
    ImageOrientationPatient SliceLocation PixelSpacing SamplesPerPixel NumberOfFrames Rows Columns
    BitsAllocated BitsStored HighBit PixelRepresentation PhotometricInterpretation
    PixelPaddingValue PixelPaddingRangeLimit LossyImageCompression RescaleSlope RescaleIntercept
    RescaleType WindowCenter WindowWidth VOILUTFunction SharedFunctionalGroupsSequence
    PerFrameFunctionalGroupsSequence PlaneOrientationSequence PlanePositionSequence
    PixelMeasuresSequence PixelValueTransformationSequence FrameVOILUTSequence
"""
_EMPTIED = """
    StudyDate StudyTime AccessionNumber ReferringPhysicianName PatientBirthDate PatientSex StudyID
    SeriesNumber Manufacturer PositionReferenceIndicator
"""  # a CT must have these elements, but may have them without a value
_REPLACED_UIDS = "SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID"
TABLE: dict[str, Action] = {
    **_with_action(Action.REPLACE_UID, _REPLACED_UIDS),
    **_with_action(Action.PSEUDONYM, "PatientName PatientID"),
    **_with_action(Action.EMPTY, _EMPTIED),
    **_with_action(Action.KEEP, _KEPT),
}
"""Keyword -> action; elements that are not listed are removed, at every depth."""
_NUMBERS = frozenset({"DS", "IS", "US", "SS", "UL", "SL", "FD", "FL"})
_CODE = re.compile(r"[A-Za-z0-9 _-]{0,16}")


def action_of(keyword: str) -> Action:
    """Return what de-identification does with elements of this keyword."""
    return TABLE.get(keyword, Action.REMOVE)


def deidentify(
    dataset: "Dataset", stored: NDArray[np.integer], pseudonyms: Pseudonyms
) -> "Dataset":
    """Return a data set of the same image without identity, its pixels uncompressed.

    Equal input and key give equal bytes.

    Args:
        dataset: A complete CT image.
        stored: Its decoded pixels, [F, H, W].
        pseudonyms: Pseudonyms with the hospital's key.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    with silence_pydicom():
        clean = _allowed_elements(dataset, pseudonyms)
        clean.PatientName = clean.PatientID = _patient_pseudonym(dataset, pseudonyms)
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
        meta.MediaStorageSOPClassUID = clean.SOPClassUID
        meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
        meta.ImplementationVersionName = "FEDKA"
        clean.file_meta = meta
    return clean


def to_bytes(dataset: "Dataset") -> bytes:
    """Return a data set as a DICOM file."""
    from pydicom import dcmwrite

    stream = BytesIO()
    with silence_pydicom():
        dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def _patient_pseudonym(dataset: "Dataset", pseudonyms: Pseudonyms) -> str:
    """Return the patient's pseudonym; without a patient number, one that depends on the study."""
    number = str(value_of(dataset, "PatientID") or "").strip()
    if number:
        return pseudonyms.of(
            "patient", number, str(value_of(dataset, "IssuerOfPatientID") or "").strip()
        )
    return pseudonyms.of(
        "patient of study", str(value_of(dataset, "StudyInstanceUID") or dataset.SOPInstanceUID)
    )


def _allowed_elements(dataset: "Dataset", pseudonyms: Pseudonyms) -> "Dataset":
    from pydicom import Dataset

    clean = Dataset()
    for element in _readable_elements(dataset):
        action = action_of(element.keyword)
        if action is Action.EMPTY:
            clean.add_new(element.tag, element.VR, None)
        elif action is Action.REPLACE_UID:
            if element.value:
                clean.add_new(element.tag, "UI", pseudonyms.uid(str(element.value)))
        elif action is Action.KEEP:
            if element.VR == "SQ":
                clean.add_new(
                    element.tag,
                    "SQ",
                    [_allowed_elements(item, pseudonyms) for item in element.value],
                )
            elif (
                element.VR in _NUMBERS
                or element.keyword == "SOPClassUID"
                or _is_code(element.value)
            ):
                clean.add_new(element.tag, element.VR, element.value)
    return clean


def _readable_elements(dataset: "Dataset") -> Iterator["DataElement"]:
    """Yield the table's elements whose values can be read; unreadable values are left out."""
    for tag in _tags():
        if tag not in dataset:
            continue
        try:
            yield dataset[tag]
        except Exception:  # missing elements are noticed where they are needed
            continue


@cache
def _tags() -> tuple[int, ...]:
    """Return the table's tags, in the order of a file."""
    from pydicom.datadict import tag_for_keyword

    return tuple(sorted(tag for tag in map(tag_for_keyword, TABLE) if tag is not None))


def _is_code(value: Any) -> bool:
    """Return whether a value holds code strings only, which cannot hold a name."""
    parts = [value] if isinstance(value, str) or value is None else list(value)
    return all(_CODE.fullmatch(str(part or "")) for part in parts)


def _basic_profile() -> "Dataset":
    from pydicom import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    return code
