import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # looked up where it is used

from physical.datasets.phantom_dicom import dicom_bytes
from physical.intake.pseudonyms import Pseudonyms
from physical.intake.receiver import OUT_OF_RESOURCES, SUCCESS, Receiver, without_delay
from physical.intake.report import IntakeReport
from physical.intake.sender import SendError, send

HERE = "127.0.0.1"
Make = Callable[..., Dataset]


@pytest.fixture
def port(hospitals: Any) -> Iterator[int]:
    with Receiver(
        hospitals.intake.inbox, hospitals.pseudonyms, "FEDKA", ["PACS"], most_bytes=100_000
    ).serving(HERE, 0) as port:
        yield port


def test_what_is_sent_arrives_in_the_mirror(
    hospitals: Any, port: int, made: Make, tmp_path: Path
) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(dicom_bytes(made(0)))
    compressed = made(1, size=40)
    compressed.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    assert send([path, made(2), compressed, made(2)], HERE, port, "PACS", "FEDKA") == [SUCCESS] * 4
    assert len(hospitals.left()) == 3  # the one that came twice has one name
    assert hospitals.intake.look() == IntakeReport(added=3, images=3)
    expected = [
        hospitals.pseudonyms.of("uid", str(data.SOPInstanceUID))
        for data in (made(0), compressed, made(2))
    ]
    assert sorted(hospitals.mirror.ids()) == sorted(expected)


def test_file_names_in_the_inbox_tell_nothing(hospitals: Any, port: int, made: Make) -> None:
    send([made(0)], HERE, port, "PACS", "FEDKA")
    (name,) = hospitals.left()
    assert name.endswith(".ready.dcm")
    assert str(made(0).SOPInstanceUID) not in name


def test_broken_images_are_accepted_and_judged_later(hospitals: Any, port: int, made: Make) -> None:
    assert send([made(0, Modality="MR"), made(1)], HERE, port, "PACS", "FEDKA") == [
        SUCCESS,
        SUCCESS,
    ]
    assert hospitals.intake.look() == IntakeReport(added=1, images=1, quarantined={"not_ct": 1})


def test_strangers_and_wrong_numbers_are_not_let_in(hospitals: Any, port: int, made: Make) -> None:
    for calling, called in (("STRANGER", "FEDKA"), ("PACS", "SOMEBODY")):
        with pytest.raises(SendError, match="no connection"):
            send([made(0)], HERE, port, calling, called)
    assert hospitals.left() == []


def test_nobody_allowed_is_no_receiver(hospitals: Any) -> None:
    for allowed in ([], [" "]):
        with pytest.raises(ValueError, match="no allowed sender"):
            Receiver(hospitals.intake.inbox, hospitals.pseudonyms, "FEDKA", allowed)


def test_images_that_are_too_large_are_refused(hospitals: Any, port: int, made: Make) -> None:
    assert send([made(0, size=256), made(1)], HERE, port, "PACS", "FEDKA") == [
        OUT_OF_RESOURCES,
        SUCCESS,
    ]
    assert len(hospitals.left()) == 1


def test_a_full_disk_is_told_to_the_sender(
    hospitals: Any, port: int, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr("physical.intake.receiver.write_whole", full)
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


def test_packets_are_not_held_back_on_either_side(hospitals: Any, pseudonyms: Pseudonyms) -> None:
    found: dict[str, int] = {}

    def note(event: evt.Event) -> None:
        without_delay(event)
        end = "receiver" if event.assoc.is_acceptor else "sender"
        assert event.assoc.dul.socket is not None
        assert event.assoc.dul.socket.socket is not None
        found[end] = event.assoc.dul.socket.socket.getsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("physical.intake.receiver.without_delay", note)
        patch.setattr("physical.intake.sender.without_delay", note)
        with Receiver(hospitals.intake.inbox, pseudonyms, "FEDKA", ["PACS"]).serving(
            HERE, 0
        ) as port:
            send([], HERE, port, "PACS", "FEDKA")
    assert sorted(found) == ["receiver", "sender"]
    assert all(found.values())


def test_what_a_killed_receiver_left_half_written_is_removed(
    hospitals: Any, pseudonyms: Pseudonyms
) -> None:
    hospitals.put(".0123.part", b"half")
    with Receiver(hospitals.intake.inbox, pseudonyms, "FEDKA", ["PACS"]).serving(HERE, 0):
        assert hospitals.left() == []
