import os
from collections.abc import Callable
from pathlib import Path

from pydicom import Dataset

from physical.datasets.dicom_file import Limits
from physical.intake.folder import READY_ENDING
from physical.intake.report import IntakeReport
from tests.physical.intake.hospital_folder import HospitalFolder

Make = Callable[..., Dataset]
FileOf = Callable[..., bytes]


def test_a_file_waits_until_it_no_longer_changes(
    make_hospital: Callable[..., HospitalFolder], file_of: FileOf
) -> None:
    hospital, content = make_hospital(settle_seconds=2), file_of()
    path = hospital.put("a.dcm", content[:700])
    assert hospital.intake.process_inbox() == IntakeReport(waiting=1)
    hospital.clock.move(5)
    path.write_bytes(content)
    assert hospital.intake.process_inbox() == IntakeReport(waiting=1)
    hospital.clock.move(1)
    assert hospital.intake.process_inbox() == IntakeReport(waiting=1)
    hospital.clock.move(1)
    assert hospital.intake.process_inbox() == IntakeReport(added=1, images=1)


def test_two_passes_process_the_whole_inbox(
    make_hospital: Callable[..., HospitalFolder], file_of: FileOf
) -> None:
    hospital, slept = make_hospital(settle_seconds=2), []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        hospital.clock.move(seconds)

    hospital.put("a.dcm", file_of())
    assert hospital.intake.process_all(sleep) == IntakeReport(added=1, images=1)
    assert hospital.intake.process_all(sleep) == IntakeReport()
    assert slept == [2]


def test_a_file_renamed_into_place_is_processed_at_once(
    make_hospital: Callable[..., HospitalFolder], file_of: FileOf
) -> None:
    hospital = make_hospital(settle_seconds=2)
    hospital.put(f"a{READY_ENDING}", file_of())
    assert hospital.intake.process_inbox().added == 1


def test_hidden_unfinished_and_special_files_are_left_alone(
    hospital: HospitalFolder, tmp_path: Path, file_of: FileOf
) -> None:
    for name in (".hidden.dcm", "a.dcm.part", "b.tmp", ".folder/c.dcm"):
        hospital.put(name, file_of())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(file_of())
    (hospital.intake.inbox / "link.dcm").symlink_to(elsewhere)
    os.mkfifo(hospital.intake.inbox / "pipe.dcm")
    assert hospital.intake.process_inbox() == IntakeReport()
    assert elsewhere.exists()


def test_large_files_are_not_read(
    make_hospital: Callable[..., HospitalFolder], file_of: FileOf
) -> None:
    hospital = make_hospital(limits=Limits(file_bytes=1000))
    hospital.put("a.dcm", file_of())
    assert hospital.intake.process_inbox() == IntakeReport(quarantined={"too_large": 1})
