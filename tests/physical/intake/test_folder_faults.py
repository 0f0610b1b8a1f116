import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset

from physical.intake.config import IntakeConfig
from physical.intake.folder import FolderIntake, IntakeError
from physical.intake.pseudonyms import Pseudonyms
from physical.intake.report import IntakeReport
from tests.physical.intake.hospital_folder import HospitalFolder

Make = Callable[..., Dataset]
FileOf = Callable[..., bytes]


def test_a_file_that_cannot_be_read_does_not_stop_the_others(
    hospital: HospitalFolder, file_of: FileOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital.put("a.dcm", file_of(1))
    hospital.put("b.dcm", file_of(2))
    real = os.open

    def broken(path: object, *args: int, **more: int) -> int:
        if str(path).endswith("a.dcm"):
            raise OSError("a bad sector")
        return real(path, *args, **more)  # type: ignore[arg-type]  # path is any object

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", broken)
        for look in range(8):  # more often than a file may kill processes
            assert hospital.intake.process_inbox() == IntakeReport(
                added=int(look == 0), images=int(look == 0), waiting=1
            )
    assert hospital.intake.process_inbox() == IntakeReport(added=1, images=1)
    assert hospital.left() == []


def test_a_full_disk_stops_the_pass_and_loses_nothing(
    hospital: HospitalFolder, file_of: FileOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        hospital.put(f"{seed}.dcm", file_of(seed))

    def full(*_: object) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr("physical.intake.folder.write_atomically", full)
        for _ in range(8):
            with pytest.raises(OSError, match="no space left"):
                hospital.intake.process_inbox()
    assert len(hospital.left()) == 3
    assert hospital.intake.process_inbox() == IntakeReport(added=3, images=3)


def test_a_file_that_kills_processes_goes_to_quarantine_unread(
    make_hospital: Callable[..., HospitalFolder], file_of: FileOf
) -> None:
    hospital = make_hospital(most_attempts=2)
    hospital.put(".taking/1/a.dcm", file_of(1))
    hospital.put(".taking/2/sub/b.dcm", file_of(2))
    assert hospital.intake.process_inbox() == IntakeReport(
        added=1, images=1, quarantined={"reader_died": 1}
    )
    assert hospital.left() == []
    assert list((hospital.intake.inbox / ".taking").glob("*/*")) == []


def test_watching_ends_on_request_and_survives_errors(
    hospital: HospitalFolder,
    file_of: FileOf,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop, reports = threading.Event(), []
    hospital.put("ZORBLAX.dcm", file_of())
    real = hospital.intake.process_inbox
    calls: list[None] = []

    def process_inbox() -> IntakeReport:
        calls.append(None)
        if len(calls) == 1:
            raise OSError(28, "no space left", "ZORBLAX.dcm")
        return real()

    monkeypatch.setattr(hospital.intake, "process_inbox", process_inbox)

    def on_report(report: IntakeReport) -> None:
        reports.append(report)
        stop.set()

    with caplog.at_level(logging.WARNING):
        hospital.intake.watch(stop, on_report, seconds=0.001)
    assert reports == [IntakeReport(added=1, images=1)]
    assert "OSError (28)" in caplog.text
    assert "ZORBLAX" not in caplog.text


def test_two_intakes_of_one_folder_share_the_work(
    hospital: HospitalFolder, tmp_path: Path, file_of: FileOf, pseudonyms: Pseudonyms
) -> None:
    for seed in range(20):
        hospital.put(f"{seed}.dcm", file_of(seed))
    other = FolderIntake(
        hospital.folder,
        hospital.mirror,
        pseudonyms,
        IntakeConfig(image_size=16, settle_seconds=0),
    )
    reports: list[IntakeReport] = []
    threads = [
        threading.Thread(target=lambda each=each: reports.append(each.process_inbox()))
        for each in (hospital.intake, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(report.added for report in reports) == 20
    assert len(hospital.mirror) == 20
    assert hospital.intake.quarantine.counts() == {}


def test_another_key_or_size_is_refused(
    hospital: HospitalFolder, tmp_path: Path, pseudonyms: Pseudonyms
) -> None:
    config = IntakeConfig(image_size=16)
    with pytest.raises(IntakeError, match="restore the key file"):
        FolderIntake(hospital.folder, hospital.mirror, Pseudonyms(b"x" * 32), config)
    with pytest.raises(IntakeError, match="image_size is 64, the mirror's 16"):
        FolderIntake(hospital.folder, hospital.mirror, pseudonyms, IntakeConfig())
