import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpx import Response
from PIL import Image

from federation.console.security.body_limit import SMALL_BODY, too_large
from tests.federation.console.example_console import World


def png(side: int = 20) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((side, side), 128, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def bomb_png(side: int = 60_000) -> bytes:
    """A PNG of a few megabytes that would unpack to 3.6 GB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(b"\0" * (side + 1)) for _ in range(200)) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


def inbox(world: World) -> Path:
    return world.settings.hospital("north").inbox


def send(world: World, *files: Any, user: str = "ada") -> Response:
    parts = [("files", each) for each in files]
    response: Response = world.client(user).post("/api/v1/intake", files=parts)
    return response


def test_uploads_are_stored_in_the_own_inbox_under_random_names(world: World) -> None:
    dicom = b"\0" * 128 + b"DICM" + b"rest"
    answer = send(
        world, ("Miller^John.png", png(), "image/png"), ("scan", dicom, "application/octet-stream")
    )
    assert [each["taken"] for each in answer.json()["files"]] == [True, True]
    names = sorted(path.name for path in inbox(world).iterdir())
    assert (
        len(names) == 2
        and all(name.startswith("web-") for name in names)
        and sorted(name[-4:] for name in names) == [".dcm", ".png"]
    )
    assert "Miller" not in answer.text and not any("Miller" in name for name in names)


def test_the_upload_page_shows_the_result_of_each_file(world: World) -> None:
    files = [("files", ("scan.png", png())), ("files", ("notes.txt", b"text"))]
    page = world.client("ada").post("/intake", files=files)
    assert page.status_code == 200 and "scan.png" not in page.text
    assert "Taken</span>" in page.text and "neither DICOM nor PNG nor JPEG" in page.text


@pytest.mark.parametrize(
    "name",
    [
        "../../evil.png",
        "/etc/cron.d/evil",
        "..\\..\\evil.png",
        "%2e%2e%2fevil.png",
        "a\0b.png",
        ".ready.dcm",
        "x" * 5000,
    ],
)
def test_no_name_of_a_file_becomes_a_path(world: World, name: str) -> None:
    before = {
        path
        for path in world.settings.folder.rglob("*")
        if path.parent != inbox(world) and path.is_file()
    }
    answer = send(world, (name, png(), "image/png"))
    assert answer.status_code in {200, 400}
    assert all(path.name.startswith("web-") for path in inbox(world).iterdir())
    after = {
        path
        for path in world.settings.folder.rglob("*")
        if path.parent != inbox(world) and path.is_file()
    }
    assert {path.name for path in after - before} <= {"console.sqlite-wal", "console.sqlite-shm"}


def test_files_that_are_no_images_are_refused_and_others_stored(world: World) -> None:
    answer = send(
        world,
        ("a.png", b"#!/bin/sh\n", "image/png"),
        ("b.png", png(), "image/png"),
        ("c.svg", b"<svg/>", "image/png"),
    )
    assert [each["taken"] for each in answer.json()["files"]] == [False, True, False]
    assert len(list(inbox(world).iterdir())) == 1


def test_a_bomb_ends_in_quarantine_by_the_intake(world: World) -> None:
    from physical.intake.config import IntakeConfig
    from physical.intake.folder import FolderIntake
    from physical.intake.pseudonyms import Pseudonyms

    assert send(world, ("bomb.png", bomb_png(), "image/png")).status_code == 200
    mirror = world.services.mirrors["north"]
    config = IntakeConfig(image_size=mirror.image_size, settle_seconds=0)
    report = FolderIntake(
        inbox(world).parent, mirror, Pseudonyms(b"k" * 32), config
    ).process_inbox()
    assert report.num_quarantined == 1 and report.added == 0


def test_a_body_with_a_too_large_content_length_is_refused_unread(
    world_with: Callable[..., World],
) -> None:
    world = world_with(max_upload_megabytes=1)
    answer = send(world, ("a.png", png() + b"\0" * SMALL_BODY, "image/png"))
    assert answer.status_code == 413 and answer.json()["error"]["message"] == too_large(SMALL_BODY)
    assert not list(inbox(world).iterdir())


def test_a_too_large_body_without_a_length_is_refused_while_it_is_read(
    world_with: Callable[..., World],
) -> None:
    world = world_with(max_upload_megabytes=1)
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    sent = []

    def endless() -> Iterator[bytes]:
        yield head
        for _ in range(50):
            sent.append(1)
            yield b"\0" * 100_000
        yield b"\r\n--x--\r\n"

    answer = world.client("ada").post(
        "/api/v1/intake",
        content=endless(),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 413
    assert not list(inbox(world).iterdir())


def test_forms_and_json_have_a_small_limit(shared_world: World) -> None:
    client = shared_world.client("ada")
    case = shared_world.cases["north"]
    long = "x" * (SMALL_BODY + 1)
    assert client.post(f"/cases/{case}/reject", data={"reason": long}).status_code == 413
    assert (
        client.post(
            f"/api/v1/cases/{case}/act", json={"action": "reject", "reason": long}
        ).status_code
        == 413
    )


@pytest.mark.parametrize("length", ["-1", "1e9", "99999999999999999999"])
def test_an_invalid_content_length_is_refused(shared_world: World, length: str) -> None:
    assert (
        shared_world.client()
        .post("/login", content=b"", headers={"Content-Length": length})
        .status_code
        == 413
    )


def test_too_many_files_are_refused(world_with: Callable[..., World]) -> None:
    world = world_with(max_upload_files=3)
    assert send(world, *[("a.png", png(), "image/png")] * 4).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x\r\n",
        b"nonsense",
        b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\ntext\r\n--x--\r\n',
    ],
)
def test_a_broken_multipart_body_is_a_clear_error(shared_world: World, body: bytes) -> None:
    answer = shared_world.client("ada").post(
        "/api/v1/intake", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code in {400, 422} and answer.json()["error"]["message"]
