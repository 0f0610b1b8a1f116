"""Certificate checks of a kit: findings, expiry and permissions.

A finding has the four parts of every message here: what, what was found, what is allowed, what to
do.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

Level = Literal["ok", "warning", "error"]
ROOT = "rootCA.pem"
SOON = timedelta(days=30)
_AGAIN = "make new kits (docs/operations.md, rotate certificates)"


class CertificateError(ValueError):
    """A certificate that cannot be looked at: what, what to do."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        site: Where.
        what: Was looked at.
        level: ``error``: it cannot run or is not safe; ``warning``: it will not for long, or could
            not be seen from here.
        got: What was found.
        allowed: What would have been right; empty where it is.
        do: What to do; empty where nothing is.
    """

    site: str
    what: str
    level: Level
    got: str
    allowed: str = ""
    do: str = ""


def load_certificate(path: Path) -> "Certificate":
    """Read a certificate.

    Raises:
        CertificateError: If it cannot be read, or ``cryptography`` is not installed.
    """
    try:
        from cryptography.x509 import load_pem_x509_certificate
    except ImportError as error:
        raise CertificateError(
            "certificates cannot be read without cryptography; pip install 'fedka[flare]'"
        ) from error
    try:
        return load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"{path} is no certificate: {error}; {_AGAIN}") from error


def certificate_findings(
    site: str, startup: Path, base: str, name: str, host: str | None, now: datetime
) -> Iterator[Finding]:
    """Look at a kit's certificate and key.

    Args:
        site: For the findings.
        startup: Folder of both.
        base: ``server`` or ``client``: their files' name.
        name: That the certificate must give.
        host: That it must be valid for; none: no host connects to it.
        now: The time.
    """
    try:
        root, certificate = (
            load_certificate(startup / ROOT),
            load_certificate(startup / f"{base}.crt"),
        )
    except CertificateError as error:
        yield Finding(
            site, "certificate", "error", str(error), f"{ROOT} and {base}.crt in {startup}", _AGAIN
        )
        return
    yield _chain(site, certificate, root)
    yield _dates(site, "certificate", certificate, now)
    yield _dates(site, "authority", root, now)
    yield from _names(site, certificate, name, host)
    yield from _key(site, certificate, startup / f"{base}.key")


def _chain(site: str, certificate: "Certificate", root: "Certificate") -> Finding:
    from cryptography.exceptions import InvalidSignature

    with suppress(ValueError, TypeError, InvalidSignature):
        root.verify_directly_issued_by(root)
        certificate.verify_directly_issued_by(root)
        return Finding(
            site, "signed by", "ok", f"{root.subject.rfc4514_string()} {fingerprint(root)}"
        )
    return Finding(
        site,
        "signed by",
        "error",
        certificate.issuer.rfc4514_string(),
        f"the authority in {ROOT}, {fingerprint(root)}",
        "take the kit as it was handed out; it was mixed with another deployment's",
    )


def fingerprint(certificate: "Certificate") -> str:
    """Return the first digits of a certificate's SHA-256, for people to compare."""
    from cryptography.hazmat.primitives.hashes import SHA256

    return certificate.fingerprint(SHA256()).hex()[:16]


def _dates(site: str, what: str, certificate: "Certificate", now: datetime) -> Finding:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    left = ends - now
    if now < begins:
        return Finding(
            site,
            what,
            "error",
            f"valid from {begins:%Y-%m-%d %H:%M} UTC",
            f"before {now:%Y-%m-%d %H:%M} UTC",
            "set this clock",
        )
    if left <= timedelta(0):
        return Finding(site, what, "error", f"expired on {ends:%Y-%m-%d}", "a date to come", _AGAIN)
    said = f"valid until {ends:%Y-%m-%d}, {left.days} days"
    return (
        Finding(site, what, "warning", said, f"more than {SOON.days} days", _AGAIN)
        if left < SOON
        else Finding(site, what, "ok", said)
    )


def _names(site: str, certificate: "Certificate", name: str, host: str | None) -> Iterator[Finding]:
    from cryptography.x509 import DNSName, ExtensionNotFound, SubjectAlternativeName
    from cryptography.x509.oid import NameOID

    said = ", ".join(
        str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    )
    advice = (
        "give the kit's folder back the name that it was made with; who has another name needs "
        "another kit"
    )
    yield (
        Finding(site, "name", "ok", said)
        if said == name
        else Finding(site, "name", "error", said, name, advice)
    )
    if host is not None:
        hosts: list[str] = []
        with suppress(ExtensionNotFound):
            hosts = certificate.extensions.get_extension_for_class(
                SubjectAlternativeName
            ).value.get_values_for_type(DNSName)
        got = ", ".join(hosts) or "none"
        advice = f"make the deployment with --host {host}"
        yield (
            Finding(site, "host", "ok", got)
            if host in hosts
            else Finding(site, "host", "error", got, host, advice)
        )


def _key(site: str, certificate: "Certificate", path: Path) -> Iterator[Finding]:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_pem_private_key,
    )

    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    try:
        key = load_pem_private_key(path.read_bytes(), None)
        fits = key.public_key().public_bytes(*form) == certificate.public_key().public_bytes(*form)
    except (OSError, ValueError, TypeError) as error:
        kind = (
            os.strerror(error.errno)
            if isinstance(error, OSError) and error.errno
            else type(error).__name__
        )
        yield Finding(
            site,
            "key",
            "error",
            f"{path.name} cannot be read: {kind}",
            "an unlocked PEM key",
            "take the kit as it was handed out",
        )
        return
    belongs = "belongs to the certificate"
    yield (
        Finding(site, "key", "ok", belongs)
        if fits
        else Finding(
            site,
            "key",
            "error",
            "of another certificate",
            belongs,
            "take the kit as it was handed out",
        )
    )
    yield permissions(site, "key's permissions", path, 0o600)


def permissions(site: str, what: str, path: Path, most: int) -> Finding:
    """Look whether anybody but its owner may read a file or a folder."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & ~most:
        return Finding(
            site,
            what,
            "error",
            f"{mode:04o}",
            f"{most:04o} or less",
            f"chmod {most:04o} {path}; someone else could have read it",
        )
    return Finding(site, what, "ok", f"{mode:04o}")


def expiry(kit: Path) -> datetime | None:
    """Return the day on which the first of a kit's certificates ends.

    Nothing where none can be read.
    """
    paths = [kit / "startup" / ROOT, *(kit / "startup").glob("*.crt")]
    ends = []
    for path in paths:
        with suppress(CertificateError):
            ends.append(load_certificate(path).not_valid_after_utc.astimezone(UTC))
    return min(ends, default=None)
