"""Login sessions on the server's side; only a token's hash is stored."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update

from twin.review.database import stamp
from twin.review.tables import SESSIONS

TOKEN_BYTES = 32
_TOUCHED_EACH = timedelta(minutes=1)  # a request does not write if one did this recently


@dataclass(frozen=True)
class Lifetime:
    """When a session ends by itself.

    Args:
        idle: After this long without a request.
        absolute: After this long in any case.
    """

    idle: timedelta = timedelta(minutes=30)
    absolute: timedelta = timedelta(hours=12)

    def over(self, created: str, used: str, now: datetime) -> bool:
        """Return whether a session has ended."""
        return (
            now - datetime.fromisoformat(used) > self.idle
            or now - datetime.fromisoformat(created) > self.absolute
        )


def start(connection: Connection, user: str, now: datetime, lifetime: Lifetime) -> str:
    """Start a session and return its token, which is nowhere else."""
    ended = (SESSIONS.c.created < stamp(now - lifetime.absolute)) | (
        SESSIONS.c.used < stamp(now - lifetime.idle)
    )
    connection.execute(delete(SESSIONS).where(ended))
    token = secrets.token_urlsafe(TOKEN_BYTES)
    connection.execute(
        insert(SESSIONS),
        {"token_hash": _hash(token), "user": user, "created": stamp(now), "used": stamp(now)},
    )
    return token


def find(
    connection: Connection, token: str, now: datetime, lifetime: Lifetime
) -> tuple[str, bool] | None:
    """Return a running session's user, and whether its use should be noted.

    None if there is none.
    """
    row = connection.execute(select(SESSIONS).where(SESSIONS.c.token_hash == _hash(token))).first()
    if row is None or lifetime.over(row.created, row.used, now):
        return None
    return row.user, now - datetime.fromisoformat(row.used) >= _TOUCHED_EACH


def touch(connection: Connection, token: str, now: datetime) -> None:
    """Note that a session is in use."""
    connection.execute(
        update(SESSIONS).where(SESSIONS.c.token_hash == _hash(token)).values(used=stamp(now))
    )


def end(connection: Connection, token: str) -> None:
    """End a session, if it runs."""
    connection.execute(delete(SESSIONS).where(SESSIONS.c.token_hash == _hash(token)))


def end_all(connection: Connection, user: str) -> int:
    """End all sessions of a user; return how many there were."""
    return connection.execute(delete(SESSIONS).where(SESSIONS.c.user == user)).rowcount


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
