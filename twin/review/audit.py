"""Audit log: who did what when, append-only, each row chained to the one before by a hash.

A row's hash is SHA-256 over the hash before it and the canonical JSON of what it says; its seal is
a keyed hash of that. A file beside the database says how long the log is (``anchor.py``), so that
cutting off its end is found too. The anchor follows the rows: after a crash it may lag behind rows
that verify, and it is never ahead of them.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from twin.review.audit_seal import NO_HASH, AuditError, AuditSeal, AuditSealFile, seal
from twin.review.cases import Page
from twin.review.database import (
    Clock,
    Stored,
    open_database,
    page_of,
    sqlite_file,
    stamp,
    utc_now,
    write,
)
from twin.review.tables import AUDIT
from twin.review.workflow import Role

__all__ = ["AuditEntry", "AuditError", "AuditFault", "AuditLog"]

_SAID = ("number", "at", "actor", "role", "hospital", "what", "subject", "details")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AuditEntry:
    """One row of the log.

    Args:
        number: From 1, without a gap.
        at: When, UTC, ISO 8601.
        actor: Who.
        role: As what.
        hospital: Of which hospital; none: of the federation.
        what: What was done, such as ``case.approve``.
        subject: To what, such as ``case 7``.
        details: Further facts.
        hash: Binds the row to all before it.
    """

    number: int
    at: str
    actor: str
    role: str
    hospital: str | None
    what: str
    subject: str
    details: Mapping[str, Any]
    hash: str


@dataclass(frozen=True)
class AuditFault:
    """Something that was changed behind the log's back.

    Args:
        row: Number of the row; none: not in one row.
        what: What is wrong, and what to do.
    """

    row: int | None
    what: str


class AuditLog:
    """The log of one database.

    Args:
        url: SQLAlchemy's.
        clock: Tells the time.
        anchor: Where the anchor is kept; none: beside a SQLite file.

    Raises:
        AuditError: If there is no place for the anchor.
    """

    def __init__(self, url: str, clock: Clock = utc_now, anchor: Path | None = None) -> None:
        file = sqlite_file(url)
        if anchor is None and file is None:
            raise AuditError(
                "the audit log's anchor has no place: the database is no SQLite file; give "
                "anchor=PATH on a disk of this machine"
            )
        self.engine = open_database(url)
        self._clock = clock
        if anchor is None:
            assert file is not None  # one of the two is given
            anchor = file.with_name(file.name + ".audit")
        self._anchor = AuditSealFile(anchor)
        with write(self.engine) as connection:
            if _last(connection).count == 0:
                self._anchor.create()
        self._follow()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a writing transaction to append in; the anchor follows its commit."""
        with write(self.engine) as connection:
            yield connection
        self._follow()

    def append(
        self,
        connection: Connection,
        actor: str,
        role: Role,
        hospital: str | None,
        what: str,
        subject: str,
        details: Mapping[str, Any] | None = None,
    ) -> int:
        """Append a row within a transaction of ``writing``.

        It is there if and only if the rest of the transaction is.

        Args:
            connection: What ``writing`` gave.
            actor: Who.
            role: As what.
            hospital: Of which hospital; none: of the federation.
            what: What was done.
            subject: To what.
            details: Further facts, as JSON can hold them; never a secret.

        Returns:
            The row's number.

        Raises:
            AuditError: If the key is missing or the details are no JSON.
        """
        last = _last(connection)
        row: dict[str, Any] = {
            "number": last.count + 1,
            "at": stamp(self._clock()),
            "actor": actor,
            "role": str(role),
            "hospital": hospital,
            "what": what,
            "subject": subject,
            "details": _canonical(dict(details or {})),
            "previous": last.head,
        }
        row["hash"] = _hash(row["previous"], row)
        row["seal"] = seal(self._anchor.key(), row["hash"])
        connection.execute(insert(AUDIT), row)
        return last.count + 1

    def record(
        self,
        actor: str,
        role: Role,
        hospital: str | None,
        what: str,
        subject: str,
        details: Mapping[str, Any] | None = None,
    ) -> int:
        """Append a row in a transaction of its own.

        Arguments, result and errors are those of ``append``.
        """
        with self.writing() as connection:
            return self.append(connection, actor, role, hospital, what, subject, details)

    def entries(
        self, page: int = 1, per_page: int = 50, hospital: str | None = None
    ) -> Page[AuditEntry]:
        """Return a page of the log, newest first.

        Args:
            page: Its number, from 1.
            per_page: Rows on a page.
            hospital: Only this one's; none: all.
        """
        wanted = select(AUDIT).order_by(AUDIT.c.number.desc())
        total = select(func.count()).select_from(AUDIT)
        if hospital is not None:
            wanted, total = (
                wanted.where(AUDIT.c.hospital == hospital),
                total.where(AUDIT.c.hospital == hospital),
            )
        with self.engine.connect() as connection:
            count = connection.execute(total).scalar_one()
            rows, page = page_of(connection, wanted, count, page, per_page)
        return Page(tuple(_entry(row) for row in rows), page, per_page, count)

    def head(self) -> tuple[int, str]:
        """Return how many rows there are and the last one's hash.

        For a copy on paper or on another machine.
        """
        with self.engine.connect() as connection:
            last = _last(connection)
        return last.count, last.head

    def verify(self) -> list[AuditFault]:
        """Return every fault, in the order of rows.

        Changed, deleted, inserted or re-ordered rows, a cut end, a damaged anchor.
        """
        try:
            key = self._anchor.key()
        except AuditError as error:
            return [AuditFault(None, str(error))]
        found, anchor = [], AuditSeal(0, NO_HASH)
        try:
            anchor = (
                self._anchor.read()
            )  # before the rows: it must not be ahead of what is read here
        except AuditError as error:
            found.append(AuditFault(None, str(error)))
        with self.engine.connect() as connection:
            rows = connection.execution_options(yield_per=1000).execute(
                select(AUDIT).order_by(AUDIT.c.number)
            )
            return [*found, *_faults(rows, key, AuditSeal(0, NO_HASH), anchor)]

    def _follow(self) -> None:
        """Move the anchor to the last row if all rows after it verify.

        With a fault it stays, so that the fault stays visible.
        """
        try:
            with write(
                self.engine
            ) as connection:  # one at a time, else an older count could replace a newer one
                anchor = self._anchor.read()
                known = connection.execute(
                    select(AUDIT.c.hash).where(AUDIT.c.number == anchor.count)
                ).scalar()
                if anchor.count and known != anchor.head:
                    raise AuditError(
                        f"row {anchor.count} is not the one that the anchor knows; run `fedka "
                        "audit verify`"
                    )
                rows = connection.execute(
                    select(AUDIT).where(AUDIT.c.number > anchor.count).order_by(AUDIT.c.number)
                )
                for fault in _faults(rows, self._anchor.key(), anchor, anchor):
                    raise AuditError(f"{fault.what}; run `fedka audit verify`")
                last = _last(connection)
                if last.count > anchor.count:
                    self._anchor.write(last)
        except (
            OSError,
            SQLAlchemyError,
        ) as error:  # what was committed stays so; the anchor may lag
            _log.error("the audit log's anchor stays where it is: %s", error)


def _faults(
    rows: Iterable[Stored], key: bytes, start: AuditSeal, anchor: AuditSeal
) -> Iterator[AuditFault]:
    number, previous = start.count, start.head
    for row in rows:
        said = dict(row._mapping)
        if row.number != number + 1:
            yield AuditFault(
                number + 1,
                f"row {number + 1} is missing: row {row.number} comes after row {number}",
            )
        elif row.previous != previous:
            yield AuditFault(
                row.number,
                f"row {row.number} does not follow row {number}: its 'previous' or row {number} "
                "was changed",
            )
        if _hash(row.previous, said) != row.hash:
            yield AuditFault(
                row.number, f"row {row.number} was changed: its content does not give its hash"
            )
        if seal(key, str(row.hash)) != row.seal:
            yield AuditFault(
                row.number,
                f"row {row.number} was not written by this log: its seal does not fit its hash",
            )
        if row.number == anchor.count and row.hash != anchor.head:
            yield AuditFault(row.number, f"row {row.number} is not the one that the anchor knows")
        number, previous = row.number, row.hash
    if number < anchor.count:
        yield AuditFault(
            number + 1, f"rows from {number + 1} on are missing: the anchor counts {anchor.count}"
        )


def _last(connection: Connection) -> AuditSeal:
    row = connection.execute(
        select(AUDIT.c.number, AUDIT.c.hash).order_by(AUDIT.c.number.desc()).limit(1)
    ).first()
    return AuditSeal(row.number, row.hash) if row else AuditSeal(0, NO_HASH)


def _canonical(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AuditError(
            f"details of an audit row are no JSON ({error}); give text, numbers, lists and dicts"
        ) from error


def _hash(previous: Any, row: Mapping[str, Any]) -> str:
    said = {name: row[name] for name in _SAID}
    content = json.dumps([previous, said], sort_keys=True, separators=(",", ":"), default=_strange)
    return hashlib.sha256(content.encode()).hexdigest()


def _strange(value: Any) -> list[str]:
    """Return what JSON does not have.

    So a row that was changed to it is reported instead of stopping the report.
    """
    return [repr(value)]


def _entry(row: Stored) -> AuditEntry:
    return AuditEntry(  # with str(): a row that was changed to another type is shown all the same
        number=row.number,
        at=str(row.at),
        actor=str(row.actor),
        role=str(row.role),
        hospital=None if row.hospital is None else str(row.hospital),
        what=str(row.what),
        subject=str(row.subject),
        details=_details(row.details),
        hash=str(row.hash),
    )


def _details(text: Any) -> Mapping[str, Any]:
    try:
        details = json.loads(text)
    except (TypeError, ValueError):
        details = None
    return details if isinstance(details, dict) else {"damaged": str(text)}
