"""Converts one incoming file into its de-identified archive copy and its mirror images.

Pure: equal bytes and an equal key give an equal result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

from physical.datasets.dicom import ct_frames, grey_square
from physical.datasets.dicom_file import parse_ct, stored_values, value_of
from physical.datasets.refusal import RefusalError
from physical.intake.config import IntakeConfig
from physical.intake.deidentify import deidentify, to_bytes
from physical.intake.images import (
    GZIP_MARK,
    JPEG_MARK,
    PNG_MARK,
    Picture,
    read_picture,
    read_volume,
)
from physical.intake.pseudonyms import Pseudonyms
from physical.mirror import MirrorImage

_VOLUME_ENDINGS, _PICTURE_ENDINGS = (".nii", ".nii.gz"), (".png", ".jpg", ".jpeg")
_NIFTI_MARK = b"n+1\0"
_CONTENT = (
    *("PixelData", "Rows", "Columns", "NumberOfFrames", "BitsStored", "PixelRepresentation"),
    *("PhotometricInterpretation", "PixelPaddingValue", "RescaleSlope", "RescaleIntercept"),
    *("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID"),
)
"""Elements in which two files with one SOP Instance UID must agree to be the same image."""


@dataclass(frozen=True)
class ConvertedFile:
    """Result of converting a file.

    Args:
        archive_name: Path of the copy within the archive.
        copy: De-identified copy of the file.
        images: Images for the mirror.
        differs_from_archived: Function (archived bytes) -> whether they hold a different image.
    """

    archive_name: str
    copy: bytes
    images: tuple[MirrorImage, ...]
    differs_from_archived: Callable[[bytes], bool]


def convert_file(
    content: bytes, original: PurePath, config: IntakeConfig, pseudonyms: Pseudonyms, arrived: str
) -> ConvertedFile:
    """Convert a file of any known kind, recognised by content first and by name second.

    Args:
        content: The file's bytes.
        original: Its path in the inbox.
        config: Intake configuration.
        pseudonyms: Pseudonyms with the hospital's key.
        arrived: Time of arrival, UTC, ISO 8601.

    Raises:
        RefusalError: If the file is refused, with the reason.
    """
    name = original.name.lower()
    class_name = config.class_of(original.parent.name) if config.class_from_folder else None
    if content[128:132] != b"DICM":
        if (
            content[344:348] == _NIFTI_MARK
            or content.startswith(GZIP_MARK)
            or name.endswith(_VOLUME_ENDINGS)
        ):
            volume = read_volume(content, config.image_size, config.window, config.limits)
            return _convert_picture(content, volume, class_name, pseudonyms, arrived)
        if content.startswith((PNG_MARK, JPEG_MARK)) or name.endswith(_PICTURE_ENDINGS):
            picture = read_picture(content, config.image_size, config.limits)
            return _convert_picture(content, picture, class_name, pseudonyms, arrived)
    return _convert_dicom(content, config, pseudonyms, arrived)


def _convert_dicom(
    content: bytes, config: IntakeConfig, pseudonyms: Pseudonyms, arrived: str
) -> ConvertedFile:
    dataset = parse_ct(content, config.limits)
    stored = stored_values(dataset, config.limits)
    squares = [
        grey_square(frame, config.window, config.image_size) for frame in ct_frames(dataset, stored)
    ]
    written = value_of(dataset, config.label_tag) if config.label_tag else None
    class_name = config.class_of(written if isinstance(written, str) else None)
    clean = deidentify(dataset, stored, pseudonyms)
    root = pseudonyms.of("uid", str(dataset.SOPInstanceUID))
    study = pseudonyms.of(
        "study", str(value_of(dataset, "StudyInstanceUID") or dataset.SOPInstanceUID)
    )
    images = tuple(
        MirrorImage(image_id, arrived, clean.PatientID, study, class_name, square, "dicom")
        for image_id, square in zip(_image_ids(root, len(squares)), squares, strict=True)
    )

    def differs_from_archived(archived: bytes) -> bool:
        try:
            known = parse_ct(archived, config.limits)
        except RefusalError:
            return False  # damaged
        return any(value_of(known, keyword) != value_of(clean, keyword) for keyword in _CONTENT)

    return ConvertedFile(
        _archive_name(root, ".dcm"), to_bytes(clean), images, differs_from_archived
    )


def _convert_picture(
    content: bytes, picture: Picture, class_name: str | None, pseudonyms: Pseudonyms, arrived: str
) -> ConvertedFile:
    root = pseudonyms.of_bytes("content", content)
    # such a file names neither patient nor study
    patient, study = pseudonyms.of("patient of file", root), pseudonyms.of("study of file", root)
    images = tuple(
        MirrorImage(image_id, arrived, patient, study, class_name, square, picture.source)
        for image_id, square in zip(
            _image_ids(root, len(picture.squares)), picture.squares, strict=True
        )
    )
    return ConvertedFile(_archive_name(root, picture.ending), picture.copy, images, lambda _: False)


def _image_ids(root: str, count: int) -> list[str]:
    return [root] if count == 1 else [f"{root}-{number:04d}" for number in range(1, count + 1)]


def _archive_name(root: str, ending: str) -> str:
    return f"{root[:2]}/{root}{ending}"
