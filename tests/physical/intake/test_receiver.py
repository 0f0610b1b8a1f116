import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # dynamic

from physical.datasets.phantom_dicom import dicom_bytes
from physical.intake.pseudonyms import Pseudonyms
from physical.intake.receiver import OUT_OF_RESOURCES, SUCCESS, Receiver, send_packets_at_once
from physical.intake.report import IntakeReport
from physical.intake.sender import SendError, send
from tests.physical.intake.hospital_folder import HospitalFolder

HERE = "127.0.0.1"
Make = Callable[..., Dataset]


@pytest.fixture
def port(hospital: HospitalFolder) -> Iterator[int]:
    with Receiver(
        hospital.intake.inbox, hospital.pseudonyms, "FEDKA", ["PACS"], most_bytes=100_000
    ).serving(HERE, 0) as port:
        yield port


def test_a_sent_image_arrives_in_the_mirror(
    hospital: HospitalFolder, port: int, made: Make, tmp_path: Path
) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(dicom_bytes(made(0)))
    compressed = made(1, size=40)
    compressed.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    assert send([path, made(2), compressed, made(2)], HERE, port, "PACS", "FEDKA") == [SUCCESS] * 4
    assert len(hospital.left()) == 3  # the one that came twice has one name
    assert hospital.intake.process_inbox() == IntakeReport(added=3, images=3)
    expected = [
        hospital.pseudonyms.of("uid", str(data.SOPInstanceUID))
        for data in (made(0), compressed, made(2))
    ]
    assert sorted(hospital.mirror.ids()) == sorted(expected)


def test_file_names_in_the_inbox_identify_nobody(
    hospital: HospitalFolder, port: int, made: Make
) -> None:
    send([made(0)], HERE, port, "PACS", "FEDKA")
    (name,) = hospital.left()
    assert name.endswith(".ready.dcm")
    assert str(made(0).SOPInstanceUID) not in name


def test_broken_images_are_accepted_and_judged_later(
    hospital: HospitalFolder, port: int, made: Make
) -> None:
    assert send([made(0, Modality="MR"), made(1)], HERE, port, "PACS", "FEDKA") == [
        SUCCESS,
        SUCCESS,
    ]
    assert hospital.intake.process_inbox() == IntakeReport(
        added=1, images=1, quarantined={"not_ct": 1}
    )


def test_unknown_senders_and_wrong_titles_are_rejected(
    hospital: HospitalFolder, port: int, made: Make
) -> None:
    for calling, called in (("STRANGER", "FEDKA"), ("PACS", "SOMEBODY")):
        with pytest.raises(SendError, match="no connection"):
            send([made(0)], HERE, port, calling, called)
    assert hospital.left() == []


def test_a_receiver_without_allowed_senders_is_refused(hospital: HospitalFolder) -> None:
    for allowed in ([], [" "]):
        with pytest.raises(ValueError, match="no allowed sender"):
            Receiver(hospital.intake.inbox, hospital.pseudonyms, "FEDKA", allowed)


def test_images_that_are_too_large_are_refused(
    hospital: HospitalFolder, port: int, made: Make
) -> None:
    assert send([made(0, size=256), made(1)], HERE, port, "PACS", "FEDKA") == [
        OUT_OF_RESOURCES,
        SUCCESS,
    ]
    assert len(hospital.left()) == 1


def test_a_full_disk_is_reported_to_the_sender(
    hospital: HospitalFolder, port: int, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr("physical.intake.receiver.write_atomically", full)
        assert send([made(0)], HERE, port, "PACS", "FEDKA") == [OUT_OF_RESOURCES]
    assert send([made(0)], HERE, port, "PACS", "FEDKA") == [SUCCESS]


def test_other_kinds_of_objects_are_not_negotiated(port: int) -> None:
    entity = AE("PACS")
    entity.add_requested_context(uid.MRImageStorage)
    entity.add_requested_context(Verification)
    association = entity.associate(HERE, port, ae_title="FEDKA")
    assert [context.abstract_syntax for context in association.accepted_contexts] == [Verification]
    assert association.send_c_echo().Status == SUCCESS
    association.release()


def test_packets_are_not_held_back_on_either_side(
    hospital: HospitalFolder, pseudonyms: Pseudonyms
) -> None:
    found: dict[str, int] = {}

    def note(event: evt.Event) -> None:
        send_packets_at_once(event)
        end = "receiver" if event.assoc.is_acceptor else "sender"
        connection: Any = event.assoc.dul.socket
        found[end] = connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("physical.intake.receiver.send_packets_at_once", note)
        patch.setattr("physical.intake.sender.send_packets_at_once", note)
        with Receiver(hospital.intake.inbox, pseudonyms, "FEDKA", ["PACS"]).serving(
            HERE, 0
        ) as port:
            send([], HERE, port, "PACS", "FEDKA")
    assert sorted(found) == ["receiver", "sender"]
    assert all(found.values())


def test_half_written_files_of_a_killed_receiver_are_removed(
    hospital: HospitalFolder, pseudonyms: Pseudonyms
) -> None:
    hospital.put(".0123.part", b"half")
    with Receiver(hospital.intake.inbox, pseudonyms, "FEDKA", ["PACS"]).serving(HERE, 0):
        assert hospital.left() == []
