from collections.abc import Callable
from pathlib import Path

from pydicom import Dataset

from physical.datasets.phantom_dicom import dicom_bytes
from physical.intake.config import IntakeConfig
from physical.intake.folder import FolderIntake
from physical.intake.pseudonyms import Pseudonyms
from physical.mirror import Mirror
from tests.physical.intake.hospital_folder import HospitalFolder

Make = Callable[..., Dataset]
FileOf = Callable[..., bytes]


def test_no_identity_is_left_in_any_byte_outside_of_the_quarantined_files(
    hospital: HospitalFolder, made: Make
) -> None:
    secrets: set[bytes] = set()
    for seed in range(12):
        data = made(seed)
        if seed % 3 == 0:
            data.RescaleSlope = 0  # to quarantine
        family, given = str(data.PatientName).split("^")
        words = [
            family,
            given,
            data.PatientID,
            data.PatientBirthDate,
            data.SOPInstanceUID,
            data.StudyInstanceUID,
            data.SeriesInstanceUID,
        ]
        words += [
            data.FrameOfReferenceUID,
            data.InstitutionName,
            data.StationName,
            data.OperatorsName,
            data.StudyDate,
            data.AccessionNumber,
        ]
        secrets |= {str(word).encode() for word in words}
        hospital.put(
            f"{data.PatientName}/{data.PatientName}-{data.SOPInstanceUID}.dcm", dicom_bytes(data)
        )
    for _ in range(2):
        hospital.intake.process_inbox()
    assert len(hospital.mirror) == 8
    hospital.mirror.close()
    searched = 0
    for path in [
        *hospital.intake.archive.rglob("*"),
        *hospital.mirror.folder.rglob("*"),
        *hospital.intake.quarantine.folder.rglob("*"),
    ]:
        name = str(path.relative_to(hospital.folder)).encode()
        content = path.read_bytes() if path.is_file() and path.suffix != ".file" else b""
        searched += len(content)
        for secret in secrets:
            assert secret not in name
            assert secret not in content
            assert secret.decode().encode("utf-16-le") not in content
    assert searched > 20_000


def test_mirrors_of_one_hospital_and_another_cannot_be_linked(
    hospital: HospitalFolder, tmp_path: Path, file_of: FileOf
) -> None:
    other = tmp_path / "other"
    mirror = Mirror(other / "mirror", 16)
    intake = FolderIntake(
        other, mirror, Pseudonyms(b"o" * 32), IntakeConfig(image_size=16, settle_seconds=0)
    )
    hospital.put("a.dcm", file_of())
    (intake.inbox / "a.dcm").write_bytes(file_of())
    hospital.intake.process_inbox()
    intake.process_inbox()
    (mine,), (theirs,) = hospital.mirror.facts(hospital.mirror.ids()), mirror.facts(mirror.ids())
    assert mine.image_id != theirs.image_id
    assert mine.patient != theirs.patient
    assert mine.study != theirs.study
