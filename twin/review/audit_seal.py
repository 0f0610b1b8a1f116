"""Seal of the audit log: its length and last hash, kept outside the database under a key.

Two files of mode 0600: a random key, made once, and the anchor, replaced atomically. Whoever can
change the table but not read the key can neither write a row nor move the anchor unnoticed. Whoever
can read the key, or puts back older copies of both table and anchor, can: against that only a copy
of the head elsewhere helps.
"""

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

NO_HASH = "0" * 64  # before the first row
KEY_BYTES = 32


class AuditError(OSError):
    """The audit log, its key or its anchor cannot be read or written."""


@dataclass(frozen=True)
class AuditSeal:
    """Where the log ended when it was last looked after.

    Args:
        count: Number of rows.
        head: Hash of the last one.
    """

    count: int
    head: str


class AuditSealFile:
    """The anchor and the key of one log.

    Args:
        path: Of the anchor; the key is the file beside it that ends in ``.key``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key_path = path.with_name(path.name + ".key")

    def create(self) -> None:
        """Make a key and an anchor of an empty log, each where it is missing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.key_path.exists():
            _replace(self.key_path, secrets.token_bytes(KEY_BYTES))
        if not self.path.exists():
            self.write(AuditSeal(0, NO_HASH))

    def key(self) -> bytes:
        """Return the key.

        Raises:
            AuditError: If it is missing or cut.
        """
        try:
            key = self.key_path.read_bytes()
        except OSError as error:
            raise AuditError(
                f"key of the audit log {self.key_path} cannot be read ({error.strerror}); put it "
                "back from a backup"
            ) from error
        if len(key) != KEY_BYTES:
            raise AuditError(
                f"key of the audit log {self.key_path} has {len(key)} bytes, it had {KEY_BYTES}; "
                "put it back from a backup"
            )
        return key

    def read(self) -> AuditSeal:
        """Return the anchor.

        Raises:
            AuditError: If it is missing or was not written with the key.
        """
        try:
            plain = json.loads(self.path.read_bytes())
            anchor = AuditSeal(int(plain["count"]), str(plain["head"]))
            genuine = hmac.compare_digest(
                str(plain["seal"]).encode(), self._seal_of(anchor).encode()
            )
        except (ValueError, KeyError, TypeError) as error:
            raise AuditError(
                f"anchor of the audit log {self.path} is damaged ({error}); put it back from a "
                "backup"
            ) from error
        except FileNotFoundError as error:
            raise AuditError(
                f"anchor of the audit log {self.path} is missing; put it back from a backup"
            ) from error
        if not genuine:
            raise AuditError(
                f"anchor of the audit log {self.path} was not written with its key; put it back "
                "from a backup"
            )
        return anchor

    def write(self, anchor: AuditSeal) -> None:
        """Replace the anchor."""
        plain = {"count": anchor.count, "head": anchor.head, "seal": self._seal_of(anchor)}
        _replace(self.path, (json.dumps(plain) + "\n").encode())

    def _seal_of(self, anchor: AuditSeal) -> str:
        return seal(self.key(), f"anchor {anchor.count} {anchor.head}")


def seal(key: bytes, text: str) -> str:
    """Return the keyed hash of a text (HMAC-SHA256)."""
    return hmac.new(key, text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # of mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
