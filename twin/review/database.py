"""How the console's database is opened, written to and read page by page.

SQLite or any SQLAlchemy URL.

Every writing transaction takes the database's one write lock at its beginning, so that what it
reads is still true when it commits.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy import Connection, Engine, NullPool, Select, create_engine, event, make_url, text

from twin.review.tables import GUARDS, TABLES

Clock = Callable[[], datetime]
Stored: TypeAlias = Any  # a row of SQLAlchemy's: the tests' type checker cannot read its type

MOST_PER_PAGE = 2000
BUSY_SECONDS = 30.0  # how long a writer waits for another one
# PostgreSQL's advisory lock of all the console's writers: any number that nobody else uses.
_LOCK = 0x6665646B61


def utc_now() -> datetime:
    """Return the time, with its zone."""
    return datetime.now(UTC)


def stamp(moment: datetime) -> str:
    """Return a time as it is stored.

    UTC, ISO 8601 to the millisecond, so that text sorts as time does.
    """
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def sqlite_file(url: str) -> Path | None:
    """Return the file behind a SQLite URL; none for another database.

    Raises:
        ValueError: If it is SQLite without a plain file: in memory each connection would see a
            database of its own.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database or parsed.database.startswith((":memory:", "file:")):
        raise ValueError(
            f"database is {url!r}, in memory or no plain file; allowed: sqlite:///FILE or the URL "
            "of a server"
        )
    return Path(parsed.database)


def open_database(url: str) -> Engine:
    """Open a database and create in it what is missing.

    Args:
        url: SQLAlchemy's.

    Raises:
        ValueError: If it is SQLite without a plain file.
    """
    file = sqlite_file(url)
    if file is None:
        engine = create_engine(
            url, hide_parameters=True
        )  # parameters in an error could be hashes of passwords
    else:
        _create_privately(file)
        # No pool: a connection costs less than a millisecond, and none is shared with a forked
        # process or left open.
        engine = create_engine(
            url, hide_parameters=True, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS}
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        _use_wal(engine)
    with write(engine) as connection:
        TABLES.create_all(connection)
        for guard in GUARDS.get(connection.dialect.name, ()):
            connection.exec_driver_sql(guard)
    return engine


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that is the only one writing.

    Commits at its end, rolls back on an error.
    """
    with engine.execution_options(review_writes=True).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        yield connection


def page_of(
    connection: Connection, wanted: Select[Any], total: int, page: int, per_page: int
) -> tuple[list[Stored], int]:
    """Return the rows of one page and its number.

    A page before the first or after the last is that one.

    Args:
        connection: Where to ask.
        wanted: All rows, in order.
        total: How many these are.
        page: From 1.
        per_page: Rows on a full page.

    Raises:
        ValueError: If a page is to hold nothing or more than ``MOST_PER_PAGE`` rows.
    """
    if not 1 <= per_page <= MOST_PER_PAGE:
        raise ValueError(f"per_page is {per_page}; allowed: 1 to {MOST_PER_PAGE}")
    page = min(max(page, 1), max(1, -(-total // per_page)))
    return list(connection.execute(wanted.limit(per_page).offset((page - 1) * per_page))), page


def _create_privately(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    os.close(
        os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    )  # SQLite gives its side files the same rights


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = (
        None  # BEGIN is ours, below; sqlite3's own comes too late, after what was read
    )
    connection.text_factory = lambda raw: raw.decode(
        errors="replace"
    )  # a damaged text is reported by its hash, not by a crash
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(
        "PRAGMA synchronous = FULL"
    )  # less would lose committed rows that the audit's anchor already counts


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("review_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _use_wal(engine: Engine) -> None:
    give_up = time.monotonic() + BUSY_SECONDS
    while True:
        raw = engine.raw_connection()
        try:
            raw.cursor().execute(
                "PRAGMA journal_mode = WAL"
            )  # outside a transaction; kept in the file
            return
        except sqlite3.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)  # two processes create the file at once: SQLite does not wait here
        finally:
            raw.close()
