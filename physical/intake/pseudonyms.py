"""Pseudonyms of patients, studies and images: keyed hashes (HMAC-SHA256) with a hospital's key.

Without the key, nothing can be linked back. If the key is lost, a patient's later images get
another pseudonym. If it is copied, its holder can find out whether a known patient is here.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

KEY_BYTES = 32
_ID_HEX = 32  # 128 bits


class PseudonymError(ValueError):
    """Raised for an unusable key; says what, got, allowed, what to do, never the key."""


class Pseudonyms:
    """Makes pseudonyms with HMAC-SHA256.

    Args:
        key: 32 secret bytes.

    Raises:
        PseudonymError: If the key has another length.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise PseudonymError(
                f"pseudonym key: got {len(key)} bytes; allowed: {KEY_BYTES}; "
                "restore the key file, never type one"
            )
        self._key = key

    def __repr__(self) -> str:
        """Return the key's fingerprint, because the key must not get into a log."""
        return f"Pseudonyms({self.fingerprint()[:8]})"

    def of(self, kind: str, *parts: str) -> str:
        """Return a pseudonym of 32 hexadecimal digits; it differs between kinds.

        Args:
            kind: Kind of thing it stands for, such as "patient".
            parts: Words that identify the thing.
        """
        return self.of_bytes(kind, *(part.encode("utf-8", "surrogateescape") for part in parts))

    def of_bytes(self, kind: str, *parts: bytes) -> str:
        """Return the pseudonym of bytes; see ``of``."""
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (kind.encode(), *parts):
            # the length makes ("a", "bc") and ("ab", "c") differ
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        return digest.hexdigest()[:_ID_HEX]

    def uid(self, original: str) -> str:
        """Return a DICOM UID that stands for another one: 2.25 and 128 bits (PS3.5 B.2)."""
        return f"2.25.{int(self.of('uid', original), 16)}"

    def fingerprint(self) -> str:
        """Return a name of the key, which tells only whether two keys are the same."""
        return self.of("fingerprint")


def read_or_make_key(path: Path) -> Pseudonyms:
    """Return pseudonyms with the key in a file, which is created for its owner at first use.

    Raises:
        PseudonymError: If others can read the file, or it holds no key.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _make_key(path)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise PseudonymError(
            f"pseudonym key {path}: got a file of mode {mode:04o}; allowed: 0600, its owner alone; "
            "find out who may have read it, then chmod 600"
        )
    try:
        key = bytes.fromhex(path.read_text("ascii").strip())
    except ValueError:
        raise PseudonymError(
            f"pseudonym key {path}: got no key; allowed: 64 hexadecimal digits; "
            "restore it from your backup"
        ) from None
    return Pseudonyms(key)


def _make_key(path: Path) -> None:
    """Write a new key; if two processes do so at once, both use the key written first."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_hex(KEY_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, path)  # unlike a rename it never replaces a key
        except FileExistsError:
            return
    finally:
        temporary.unlink()
