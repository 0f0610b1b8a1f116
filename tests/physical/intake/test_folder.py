import logging
import os
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread

from physical.datasets.dicom import Limits
from physical.datasets.greyscale import ABDOMEN, fitted, windowed
from physical.datasets.phantom_dicom import dicom_bytes
from physical.intake.config import IntakeConfig
from physical.intake.folder import READY, FolderIntake, IntakeError
from physical.intake.pseudonyms import Pseudonyms
from physical.intake.report import IntakeReport
from physical.mirror import Mirror

Make = Callable[..., Dataset]
FileOf = Callable[..., bytes]


def test_a_ct_goes_into_archive_and_mirror_and_leaves_the_inbox(hospitals: Any, made: Make) -> None:
    data = made(0, "LIVER", RescaleIntercept=-1000)
    hospitals.put("ZORBLAX.dcm", dicom_bytes(data))
    assert hospitals.intake.look() == IntakeReport(added=1, images=1)
    assert hospitals.left() == []
    (image_id,) = hospitals.mirror.ids()
    (facts,) = hospitals.mirror.facts([image_id])
    (archived,) = hospitals.intake.archive.glob("*/*.dcm")
    assert archived.stem == image_id == hospitals.pseudonyms.of("uid", str(data.SOPInstanceUID))
    assert (
        facts.patient
        == dcmread(archived).PatientID
        == hospitals.pseudonyms.of("patient", str(data.PatientID), "")
    )
    assert (facts.class_name, facts.source, facts.arrived) == (
        "liver",
        "dicom",
        "2024-02-19T08:30:00+00:00",
    )
    hounsfield = np.frombuffer(data.PixelData, "<u2").reshape(16, 16) - 1000.0
    np.testing.assert_array_equal(
        hospitals.mirror.pixels([image_id])[0], fitted(windowed(hounsfield, ABDOMEN), 16)
    )


def test_the_same_file_again_is_taken_once(hospitals: Any, file_of: FileOf) -> None:
    for name in ("a.dcm", "b.dcm"):
        hospitals.put(name, file_of())
    assert hospitals.intake.look() == IntakeReport(added=1, images=1, repeated=1)
    hospitals.put("a.dcm", file_of())
    assert hospitals.intake.look() == IntakeReport(repeated=1)
    assert len(hospitals.mirror) == 1
    assert hospitals.left() == []


def test_the_same_image_with_other_words_around_it_is_the_same(hospitals: Any, made: Make) -> None:
    hospitals.put("a.dcm", dicom_bytes(made()))
    hospitals.put(
        "b.dcm", dicom_bytes(made(PatientComments="arrived by another way", WindowCenter=100))
    )
    assert hospitals.intake.look() == IntakeReport(added=1, images=1, repeated=1)


@pytest.mark.parametrize(
    "change", [{"RescaleIntercept": -1000}, {"PatientID": "SOMEBODY"}, {"PixelData": b"\1\0" * 256}]
)
def test_another_image_under_the_same_uid_is_quarantined(
    hospitals: Any, made: Make, change: dict[str, Any]
) -> None:
    hospitals.put("a.dcm", dicom_bytes(made()))
    hospitals.put("b.dcm", dicom_bytes(made(**change)))
    assert hospitals.intake.look() == IntakeReport(added=1, images=1, quarantined={"duplicate": 1})
    assert hospitals.intake.quarantine.counts() == {"duplicate": 1}
    assert len(hospitals.mirror) == 1


def test_a_damaged_copy_in_the_archive_is_no_reason_to_refuse(
    hospitals: Any, file_of: FileOf
) -> None:
    hospitals.put("a.dcm", file_of())
    hospitals.intake.look()
    (archived,) = hospitals.intake.archive.glob("*/*.dcm")
    whole = archived.read_bytes()
    archived.write_bytes(whole[:100])
    hospitals.put("a.dcm", file_of())
    assert hospitals.intake.look() == IntakeReport(repeated=1)
    assert archived.read_bytes() == whole


def test_frames_become_images_of_their_own(hospitals: Any, made: Make) -> None:
    data = made(NumberOfFrames=3)
    data.PixelData = data.PixelData * 3
    hospitals.put("a.dcm", dicom_bytes(data))
    assert hospitals.intake.look() == IntakeReport(added=1, images=3)
    root = hospitals.pseudonyms.of("uid", str(data.SOPInstanceUID))
    assert hospitals.mirror.ids() == [f"{root}-0001", f"{root}-0002", f"{root}-0003"]


def test_an_image_that_nobody_names_has_no_name(
    ward_of: Callable[..., Any], file_of: FileOf
) -> None:
    hospitals = ward_of()
    hospitals.put("a.dcm", file_of(body_part=None))
    hospitals.intake.look()
    assert hospitals.mirror.ids(named=False) == hospitals.mirror.ids()
    blind = ward_of("blind", label_tag=None)
    blind.put("a.dcm", file_of(body_part="LIVER"))
    blind.intake.look()
    assert blind.mirror.class_counts() == {}


def test_pictures_and_volumes_are_taken_with_their_folders_name(
    ward_of: Callable[..., Any], file_of: FileOf
) -> None:
    hospitals = ward_of(class_from_folder=True)
    stream = BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(stream, "PNG")
    hospitals.put("Spleen/one.png", stream.getvalue())
    stream = BytesIO()
    Image.fromarray(np.full((20, 20), 9, np.uint8)).save(stream, "JPEG")
    hospitals.put("liver/two.jpg", stream.getvalue())
    hospitals.put(
        "liver/three.nii", nib.Nifti1Image(np.zeros((8, 8, 2), np.int16), np.eye(4)).to_bytes()
    )
    hospitals.put("liver/four.dcm", file_of(body_part=None))
    hospitals.put("five.png", b"\x89PNG\r\n\x1a\n nothing")
    hospitals.put("six.nii.gz", b"nothing")
    hospitals.put("seven.txt", b"nothing")
    report = hospitals.intake.look()
    assert report == IntakeReport(
        added=4, images=5, quarantined={"not_an_image": 2, "not_dicom": 1}
    )
    assert hospitals.mirror.class_counts() == {"liver": 3, "spleen": 1}
    assert sorted({facts.source for facts in hospitals.mirror.facts(hospitals.mirror.ids())}) == [
        "dicom",
        "jpeg",
        "nifti",
        "png",
    ]
    assert sorted(path.suffix for path in hospitals.intake.archive.glob("*/*")) == [
        ".dcm",
        ".nii",
        ".png",
        ".png",
    ]


def test_a_file_is_left_until_nobody_writes_to_it(
    ward_of: Callable[..., Any], file_of: FileOf
) -> None:
    hospitals, content = ward_of(settle_seconds=2), file_of()
    path = hospitals.put("a.dcm", content[:700])
    assert hospitals.intake.look() == IntakeReport(waiting=1)
    hospitals.clock.move(5)
    path.write_bytes(content)
    assert hospitals.intake.look() == IntakeReport(waiting=1)
    hospitals.clock.move(1)
    assert hospitals.intake.look() == IntakeReport(waiting=1)
    hospitals.clock.move(1)
    assert hospitals.intake.look() == IntakeReport(added=1, images=1)


def test_two_looks_take_all_that_is_there(ward_of: Callable[..., Any], file_of: FileOf) -> None:
    hospitals, slept = ward_of(settle_seconds=2), []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        hospitals.clock.move(seconds)

    hospitals.put("a.dcm", file_of())
    assert hospitals.intake.take_all(sleep) == IntakeReport(added=1, images=1)
    assert hospitals.intake.take_all(sleep) == IntakeReport()
    assert slept == [2]


def test_what_was_renamed_into_place_is_taken_at_once(
    ward_of: Callable[..., Any], file_of: FileOf
) -> None:
    hospitals = ward_of(settle_seconds=2)
    hospitals.put(f"a{READY}", file_of())
    assert hospitals.intake.look().added == 1


def test_hidden_unfinished_and_special_files_are_left_alone(
    hospitals: Any, tmp_path: Path, file_of: FileOf
) -> None:
    for name in (".hidden.dcm", "a.dcm.part", "b.tmp", ".folder/c.dcm"):
        hospitals.put(name, file_of())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(file_of())
    (hospitals.intake.inbox / "link.dcm").symlink_to(elsewhere)
    os.mkfifo(hospitals.intake.inbox / "pipe.dcm")
    assert hospitals.intake.look() == IntakeReport()
    assert elsewhere.exists()


def test_large_files_are_not_read(ward_of: Callable[..., Any], file_of: FileOf) -> None:
    hospitals = ward_of(limits=Limits(file_bytes=1000))
    hospitals.put("a.dcm", file_of())
    assert hospitals.intake.look() == IntakeReport(quarantined={"too_large": 1})


def test_a_file_that_cannot_be_read_does_not_stop_the_others(
    hospitals: Any, file_of: FileOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospitals.put("a.dcm", file_of(1))
    hospitals.put("b.dcm", file_of(2))
    real = os.open

    def broken(path: object, *args: int, **more: int) -> int:
        if str(path).endswith("a.dcm"):
            raise OSError("a bad sector")
        return real(path, *args, **more)  # type: ignore[arg-type]  # checked at run time

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", broken)
        for look in range(8):  # more often than a file may kill processes
            assert hospitals.intake.look() == IntakeReport(
                added=int(look == 0), images=int(look == 0), waiting=1
            )
    assert hospitals.intake.look() == IntakeReport(added=1, images=1)
    assert hospitals.left() == []


def test_a_full_disk_stops_the_look_and_loses_nothing(
    hospitals: Any, file_of: FileOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        hospitals.put(f"{seed}.dcm", file_of(seed))

    def full(*_: object) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr("physical.intake.folder.write_whole", full)
        for _ in range(8):
            with pytest.raises(OSError, match="no space left"):
                hospitals.intake.look()
    assert len(hospitals.left()) == 3
    assert hospitals.intake.look() == IntakeReport(added=3, images=3)


def test_a_file_on_which_processes_die_goes_to_quarantine_unread(
    ward_of: Callable[..., Any], file_of: FileOf
) -> None:
    hospitals = ward_of(most_attempts=2)
    hospitals.put(".taking/1/a.dcm", file_of(1))
    hospitals.put(".taking/2/sub/b.dcm", file_of(2))
    assert hospitals.intake.look() == IntakeReport(
        added=1, images=1, quarantined={"reader_died": 1}
    )
    assert hospitals.left() == []
    assert list((hospitals.intake.inbox / ".taking").glob("*/*")) == []


def test_watching_ends_when_told_and_survives_trouble(
    hospitals: Any,
    file_of: FileOf,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop, reports = threading.Event(), []
    hospitals.put("ZORBLAX.dcm", file_of())
    real, calls = hospitals.intake.look, []  # type: ignore[var-annotated]  # any

    def look() -> IntakeReport:
        calls.append(None)
        if len(calls) == 1:
            raise OSError(28, "no space left", "ZORBLAX.dcm")
        return real()

    monkeypatch.setattr(hospitals.intake, "look", look)

    def tell(report: IntakeReport) -> None:
        reports.append(report)
        stop.set()

    with caplog.at_level(logging.WARNING):
        hospitals.intake.watch(stop, tell, seconds=0.001)
    assert reports == [IntakeReport(added=1, images=1)]
    assert "OSError (28)" in caplog.text
    assert "ZORBLAX" not in caplog.text


def test_two_intakes_of_one_folder_share_the_work(
    hospitals: Any, tmp_path: Path, file_of: FileOf, pseudonyms: Pseudonyms
) -> None:
    for seed in range(20):
        hospitals.put(f"{seed}.dcm", file_of(seed))
    other = FolderIntake(
        hospitals.folder,
        hospitals.mirror,
        pseudonyms,
        IntakeConfig(image_size=16, settle_seconds=0),
    )
    reports: list[IntakeReport] = []
    threads = [
        threading.Thread(target=lambda each=each: reports.append(each.look()))
        for each in (hospitals.intake, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(report.added for report in reports) == 20
    assert len(hospitals.mirror) == 20
    assert hospitals.intake.quarantine.counts() == {}


def test_another_key_or_size_is_refused(
    hospitals: Any, tmp_path: Path, pseudonyms: Pseudonyms
) -> None:
    config = IntakeConfig(image_size=16)
    with pytest.raises(IntakeError, match="restore the key file"):
        FolderIntake(hospitals.folder, hospitals.mirror, Pseudonyms(b"x" * 32), config)
    with pytest.raises(IntakeError, match="image_size is 64, the mirror's 16"):
        FolderIntake(hospitals.folder, hospitals.mirror, pseudonyms, IntakeConfig())


def test_no_identity_is_left_in_any_byte_outside_of_the_quarantined_files(
    hospitals: Any, made: Make
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
        hospitals.put(
            f"{data.PatientName}/{data.PatientName}-{data.SOPInstanceUID}.dcm", dicom_bytes(data)
        )
    for _ in range(2):
        hospitals.intake.look()
    assert len(hospitals.mirror) == 8
    hospitals.mirror.close()
    searched = 0
    for path in [
        *hospitals.intake.archive.rglob("*"),
        *hospitals.mirror.folder.rglob("*"),
        *hospitals.intake.quarantine.folder.rglob("*"),
    ]:
        name = str(path.relative_to(hospitals.folder)).encode()
        content = path.read_bytes() if path.is_file() and path.suffix != ".file" else b""
        searched += len(content)
        for secret in secrets:
            assert secret not in name
            assert secret not in content
            assert secret.decode().encode("utf-16-le") not in content
    assert searched > 20_000


def test_mirrors_of_one_hospital_and_another_cannot_be_linked(
    hospitals: Any, tmp_path: Path, file_of: FileOf
) -> None:
    other = tmp_path / "other"
    mirror = Mirror(other / "mirror", 16)
    intake = FolderIntake(
        other, mirror, Pseudonyms(b"o" * 32), IntakeConfig(image_size=16, settle_seconds=0)
    )
    hospitals.put("a.dcm", file_of())
    (intake.inbox / "a.dcm").write_bytes(file_of())
    hospitals.intake.look()
    intake.look()
    (mine,), (theirs,) = hospitals.mirror.facts(hospitals.mirror.ids()), mirror.facts(mirror.ids())
    assert mine.image_id != theirs.image_id
    assert mine.patient != theirs.patient
    assert mine.study != theirs.study
