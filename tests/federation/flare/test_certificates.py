from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from federation.flare.certificates import Finding

pytest.importorskip("cryptography")
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from federation.flare.certificates import (
    CertificateError,
    certificate_findings,
    expiry,
    load_certificate,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def certificate(
    name: str, key: Any, issuer: str, signer: Any, begins: datetime, ends: datetime
) -> bytes:
    subject, by = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer)
    )
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(by).public_key(key.public_key())
    )
    builder = (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False
    )
    return builder.sign(signer, SHA256()).public_bytes(Encoding.PEM)


def kit(
    folder: Path,
    name: str = "west",
    begins: datetime = NOW - DAY,
    ends: datetime = NOW + 100 * DAY,
    authority: Any = None,
) -> Path:
    root = authority or ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rootCA.pem").write_bytes(
        certificate("fedka", root, "fedka", root, NOW - 10 * DAY, NOW + 400 * DAY)
    )
    (folder / "client.crt").write_bytes(certificate(name, key, "fedka", root, begins, ends))
    (folder / "client.key").touch(mode=0o600)
    (folder / "client.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return folder


def look(
    startup: Path, name: str = "west", host: str | None = None, now: datetime = NOW
) -> dict[str, Finding]:
    return {
        each.what: each for each in certificate_findings("west", startup, "client", name, host, now)
    }


def test_a_good_kit_is_all_well(tmp_path: Path) -> None:
    found = look(kit(tmp_path), host="west")
    assert {each.level for each in found.values()} == {"ok"}
    assert set(found) == {
        "signed by",
        "certificate",
        "authority",
        "name",
        "host",
        "key",
        "key's permissions",
    }


@pytest.mark.parametrize(
    ("days", "level", "words"),
    [
        (31, "ok", "30 days"),
        (29, "warning", "valid until"),
        (0, "error", "expired on 2030-01-01"),
        (-1, "error", "expired on 2029-12-31"),
    ],
)
def test_a_certificate_is_warned_of_before_it_ends_and_refused_after(
    tmp_path: Path, days: int, level: Any, words: str
) -> None:
    ends = NOW + days * DAY + (timedelta(seconds=0) if days <= 0 else -timedelta(seconds=1))
    found = look(kit(tmp_path, begins=NOW - 50 * DAY, ends=ends))["certificate"]
    assert found.level == level and words in found.got
    assert (found.do == "") == (level == "ok")


def test_a_clock_that_is_behind_is_told_from_a_certificate_that_is_old(tmp_path: Path) -> None:
    found = look(kit(tmp_path), now=NOW - 5 * DAY)["certificate"]
    assert (found.level, found.do) == ("error", "set this clock")


def test_a_kit_of_another_authority_is_found(tmp_path: Path) -> None:
    one, other = kit(tmp_path / "one"), kit(tmp_path / "other")
    (one / "rootCA.pem").write_bytes((other / "rootCA.pem").read_bytes())
    assert look(one)["signed by"].level == "error"


def test_a_key_of_another_certificate_is_found(tmp_path: Path) -> None:
    root = ec.generate_private_key(ec.SECP256R1())
    one, other = kit(tmp_path / "one", authority=root), kit(tmp_path / "other", authority=root)
    (one / "client.key").write_bytes((other / "client.key").read_bytes())
    found = look(one)
    assert found["key"].level == "error" and found["signed by"].level == "ok"


def test_a_certificate_of_another_name_or_host_is_found(tmp_path: Path) -> None:
    found = look(kit(tmp_path, name="east"), name="west", host="server.example")
    assert (found["name"].level, found["name"].got, found["name"].allowed) == (
        "error",
        "east",
        "west",
    )
    assert (found["host"].level, found["host"].got, found["host"].allowed) == (
        "error",
        "east",
        "server.example",
    )


def test_a_key_that_others_can_read_is_found(tmp_path: Path) -> None:
    kit(tmp_path)
    (tmp_path / "client.key").chmod(0o640)
    found = look(tmp_path)["key's permissions"]
    assert (found.level, found.got) == ("error", "0640") and found.do.startswith("chmod 0600")


@pytest.mark.parametrize("name", ["client.crt", "rootCA.pem"])
@pytest.mark.parametrize(
    "content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_one_finding(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    kit(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    (found,) = certificate_findings("west", tmp_path, "client", "west", None, NOW)
    assert found.level == "error" and name in found.got
    with pytest.raises(CertificateError, match="is no certificate"):
        load_certificate(tmp_path / name)


@pytest.mark.parametrize("content", [None, b"", b"\x00\xff"])
def test_what_is_no_key_is_a_finding_that_shows_nothing_of_it(
    tmp_path: Path, content: bytes | None
) -> None:
    kit(tmp_path)
    (tmp_path / "client.key").unlink() if content is None else (
        tmp_path / "client.key"
    ).write_bytes(content)
    found = look(tmp_path)["key"]
    assert found.level == "error" and "client.key cannot be read" in found.got


def test_the_first_certificate_to_end_is_the_kits_end(tmp_path: Path) -> None:
    assert expiry(tmp_path) is None
    kit(tmp_path / "startup", ends=NOW + 7 * DAY)
    assert expiry(tmp_path) == NOW + 7 * DAY
