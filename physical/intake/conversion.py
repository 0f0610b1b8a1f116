"""One file's bytes become what is archived and what is mirrored.

Pure: knows no folder; says the same for the same bytes and key.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

from physical.datasets.dicom import ct_frames, grey_square, parse_ct, stored_values, value_of
from physical.datasets.refusal import RefusalError
from physical.intake.config import IntakeConfig
from physical.intake.deidentify import deidentified, to_bytes
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
    "PixelData",
    *(
        "Rows",
        "Columns",
        "NumberOfFrames",
        "BitsStored",
        "PixelRepresentation",
        "PhotometricInterpretation",
        "PixelPaddingValue",
    ),
    *(
        "RescaleSlope",
        "RescaleIntercept",
        "ImageOrientationPatient",
        "ImagePositionPatient",
        "PixelSpacing",
    ),
    *(
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
        "PatientID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
    ),
)
"""What makes two files of one SOP Instance UID the same image."""


@dataclass(frozen=True)
class Taken:
    """What a file has become.

    Args:
        archive_name: Where its copy goes, within the archive.
        copy: The copy, without identity.
        images: For the mirror.
        is_other: Function (bytes in the archive) -> whether they are an image, and another one.
    """

    archive_name: str
    copy: bytes
    images: tuple[MirrorImage, ...]
    is_other: Callable[[bytes], bool]


def take(
    content: bytes, original: PurePath, config: IntakeConfig, pseudonyms: Pseudonyms, arrived: str
) -> Taken:
    """Read a file of any kind that the intake knows, by its content.

    Its name decides only where the content is silent.

    Args:
        content: The file.
        original: Its path in the inbox.
        config: How to take it.
        pseudonyms: With the hospital's key.
        arrived: When, UTC, ISO 8601.

    Raises:
        RefusalError: If it cannot be taken, with the reason.
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
            return _of_picture(content, volume, class_name, pseudonyms, arrived)
        if content.startswith((PNG_MARK, JPEG_MARK)) or name.endswith(_PICTURE_ENDINGS):
            picture = read_picture(content, config.image_size, config.limits)
            return _of_picture(content, picture, class_name, pseudonyms, arrived)
    return _of_dicom(content, config, pseudonyms, arrived)


def _of_dicom(content: bytes, config: IntakeConfig, pseudonyms: Pseudonyms, arrived: str) -> Taken:
    dataset = parse_ct(content, config.limits)
    stored = stored_values(dataset, config.limits)
    squares = [
        grey_square(frame, config.window, config.image_size) for frame in ct_frames(dataset, stored)
    ]
    written = value_of(dataset, config.label_tag) if config.label_tag else None
    class_name = config.class_of(written if isinstance(written, str) else None)
    clean = deidentified(dataset, stored, pseudonyms)
    root = pseudonyms.of("uid", str(dataset.SOPInstanceUID))
    study = pseudonyms.of(
        "study", str(value_of(dataset, "StudyInstanceUID") or dataset.SOPInstanceUID)
    )
    images = tuple(
        MirrorImage(image_id, arrived, clean.PatientID, study, class_name, square, "dicom")
        for image_id, square in zip(_image_ids(root, len(squares)), squares, strict=True)
    )

    def is_other(archived: bytes) -> bool:
        try:
            known = parse_ct(archived, config.limits)
        except RefusalError:
            return False  # damaged
        return any(value_of(known, keyword) != value_of(clean, keyword) for keyword in _CONTENT)

    return Taken(_archive_name(root, ".dcm"), to_bytes(clean), images, is_other)


def _of_picture(
    content: bytes, picture: Picture, class_name: str | None, pseudonyms: Pseudonyms, arrived: str
) -> Taken:
    root = pseudonyms.of_bytes("content", content)
    patient, study = (
        pseudonyms.of("patient of file", root),
        pseudonyms.of("study of file", root),
    )  # such a file names neither
    images = tuple(
        MirrorImage(image_id, arrived, patient, study, class_name, square, picture.source)
        for image_id, square in zip(
            _image_ids(root, len(picture.squares)), picture.squares, strict=True
        )
    )
    return Taken(_archive_name(root, picture.ending), picture.copy, images, lambda _: False)


def _image_ids(root: str, count: int) -> list[str]:
    return [root] if count == 1 else [f"{root}-{number:04d}" for number in range(1, count + 1)]


def _archive_name(root: str, ending: str) -> str:
    return f"{root[:2]}/{root}{ending}"
