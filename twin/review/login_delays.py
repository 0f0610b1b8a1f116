"""Login delays that grow with wrong passwords, per user and per address.

The counts are in the database, so a restart forgives nothing. An unknown name counts like a known
one. Names and addresses are kept as hashes, because people type their password where their name
belongs. Everyone behind one hospital's address shares its count, therefore that one starts later.
"""

import hashlib
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update

from twin.review.database import Stored, stamp
from twin.review.tables import FAILURES

FREE_PER_USER = 5  # failures without a wait
FREE_PER_ADDRESS = 20
LONGEST_WAIT = timedelta(minutes=15)
FORGOTTEN_AFTER = timedelta(days=1)


def wait_seconds(connection: Connection, user: str, address: str, now: datetime) -> float:
    """Return how long nobody may try with this name or from this address; 0: not at all."""
    waits = [0.0]
    for key, free in _keys(user, address).items():
        row = _failures(connection, key, now)
        if row is not None and row.failures >= free:
            wait = min(2.0 ** min(row.failures - free, 60), LONGEST_WAIT.total_seconds())
            waits.append(wait - (now - datetime.fromisoformat(row.last)).total_seconds())
    return max(waits)


def count(connection: Connection, user: str, address: str, now: datetime) -> None:
    """Count a try as failed.

    It is counted before its password is looked at, so that many at once do not slip through.
    """
    connection.execute(delete(FAILURES).where(FAILURES.c.last < stamp(now - FORGOTTEN_AFTER)))
    for key in _keys(user, address):
        if _failures(connection, key, now) is None:
            connection.execute(insert(FAILURES), {"key": key, "failures": 1, "last": stamp(now)})
        else:
            connection.execute(
                update(FAILURES)
                .where(FAILURES.c.key == key)
                .values(failures=FAILURES.c.failures + 1, last=stamp(now))
            )


def forgive(connection: Connection, user: str, address: str) -> None:
    """Take the last try back: it was right.

    The user's count is cleared, the address loses only this one.
    """
    by_user, *by_address = _keys(user, address)
    connection.execute(delete(FAILURES).where(FAILURES.c.key == by_user))
    for key in by_address:
        connection.execute(
            update(FAILURES).where(FAILURES.c.key == key).values(failures=FAILURES.c.failures - 1)
        )


def _failures(connection: Connection, key: str, now: datetime) -> Stored | None:
    wanted = select(FAILURES.c.failures, FAILURES.c.last)
    return connection.execute(
        wanted.where(FAILURES.c.key == key, FAILURES.c.last >= stamp(now - FORGOTTEN_AFTER))
    ).first()


def _keys(user: str, address: str) -> dict[str, int]:
    keys = {_hash("user", user): FREE_PER_USER}
    return keys | {_hash("address", address): FREE_PER_ADDRESS} if address else keys


def _hash(kind: str, value: str) -> str:
    return hashlib.sha256(f"{kind} {value}".encode(errors="surrogatepass")).hexdigest()
