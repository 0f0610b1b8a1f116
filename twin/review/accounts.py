"""Who may use the console.

Names, roles, Argon2id hashes of passwords, sessions, waits after wrong passwords.

A name that does not exist costs the same work as a wrong password. No password, token or hash is in
an error, a value's repr or a log.
"""

import secrets
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, insert, select, update

from twin.review import login_delays, sessions
from twin.review.account_rules import (
    ACCOUNT_ROLES,
    HOSPITAL_ROLES,
    LONGEST_PASSWORD,
    AccountError,
    check_password,
    check_place,
    checked_name,
    is_name,
    normal,
    plain,
)
from twin.review.audit import AuditLog
from twin.review.database import Clock, Stored, stamp, utc_now, write
from twin.review.sessions import Lifetime
from twin.review.tables import USERS
from twin.review.workflow import SYSTEM, Actor, Role

__all__ = ["ACCOUNT_ROLES", "HOSPITAL_ROLES", "Account", "AccountError", "Accounts"]


@dataclass(frozen=True)
class Account:
    """A person.

    Args:
        user: Name, in lower case.
        role: As what.
        hospital: Of which hospital; none: of the federation.
        disabled: They may not log in.
        created: When the account was made, UTC, ISO 8601.
    """

    user: str
    role: Role
    hospital: str | None
    disabled: bool
    created: str


class Accounts:
    """All accounts of one database.

    Args:
        url: SQLAlchemy's.
        clock: Tells the time.
        anchor: Where the audit log's anchor is kept; none: beside a SQLite file.
        hasher: How passwords are hashed; hashes made otherwise are renewed when their password is
            next given.
        idle: A session ends after this long without a request.
        absolute: A session ends after this long.
    """

    def __init__(
        self,
        url: str,
        clock: Clock = utc_now,
        anchor: Path | None = None,
        hasher: PasswordHasher | None = None,
        idle: timedelta = Lifetime.idle,
        absolute: timedelta = Lifetime.absolute,
    ) -> None:
        self.audit = AuditLog(url, clock, anchor)
        self._engine = self.audit.engine
        self._clock = clock
        self._hasher = (
            hasher or PasswordHasher()
        )  # Argon2id with RFC 9106's second recommendation: 64 MiB, 3 passes
        self._lifetime = Lifetime(idle, absolute)

    def add(
        self, user: str, password: str, role: Role, hospital: str | None = None, by: Actor = SYSTEM
    ) -> Account:
        """Make an account.

        Args:
            user: Name; capitals become small.
            password: At least 12 characters.
            role: One of ``ACCOUNT_ROLES``.
            hospital: For clinicians and approvers.
            by: Who makes it.

        Raises:
            AccountError: If name, password, role and hospital do not fit, or the name is taken.
        """
        name = checked_name(user)
        check_place(role, hospital)
        hospital = hospital or None
        password_hash = self._hash(name, password)
        with self.audit.writing() as connection:
            if _row(connection, name) is not None:
                raise AccountError(
                    f"user {name!r} exists; choose another name, or give that account a new "
                    "password"
                )
            made = {
                "role": role.value,
                "hospital": hospital,
                "disabled": False,
                "created": stamp(self._clock()),
            }
            connection.execute(
                insert(USERS), {"user": name, "password_hash": password_hash, **made}
            )
            self._log(connection, by, "add", name, hospital, {"role": role.value})
        return self.get(name)

    def check(self, user: str, password: str, address: str = "") -> Account | None:
        """Return the enabled account of this name and password; none while somebody has to wait.

        Args:
            user: Name as typed.
            password: As typed.
            address: From where; empty: only the name's failures count.
        """
        name, now = plain(user), self._clock()
        with write(self._engine) as connection:
            if login_delays.wait_seconds(connection, name, address, now) > 0:
                return None
            login_delays.count(connection, name, address, now)
            row = _row(connection, name)
        decoy = self._decoy  # made at the first check, whoever it is for
        right = self._fits(decoy if row is None else row.password_hash, password)
        if row is None or row.disabled or not right:
            return None
        with write(self._engine) as connection:
            login_delays.forgive(connection, name, address)
        if self._hasher.check_needs_rehash(row.password_hash):
            self._renew(name, row.password_hash, password)
        return _account(row)

    def failures(self, user: str, address: str = "") -> float:
        """Return how many seconds nobody may try with this name or from this address.

        0: not at all.
        """
        with self._engine.connect() as connection:
            return login_delays.wait_seconds(connection, plain(user), address, self._clock())

    def get(self, user: str) -> Account:
        """Return an account.

        Raises:
            AccountError: If there is none.
        """
        with self._engine.connect() as connection:
            return _account(_known(connection, plain(user)))

    def set_password(self, user: str, password: str, by: Actor = SYSTEM) -> None:
        """Give an account a new password and end its sessions.

        Raises:
            AccountError: If there is no such account or the password is too weak.
        """
        name = plain(user)
        self.get(name)
        password_hash = self._hash(name, password)
        self._change(name, by, "set_password", {"password_hash": password_hash})

    def disable(self, user: str, by: Actor = SYSTEM) -> None:
        """Let nobody log in with an account and end its sessions.

        Raises:
            AccountError: If there is no such account.
        """
        self._change(plain(user), by, "disable", {"disabled": True})

    def enable(self, user: str, by: Actor = SYSTEM) -> None:
        """Let a disabled account log in again.

        Raises:
            AccountError: If there is no such account.
        """
        self._change(plain(user), by, "enable", {"disabled": False})

    def open_session(self, user: str, old_token: str | None = None) -> str:
        """Start a session of somebody whose password was right.

        Args:
            user: Who.
            old_token: What the browser came with; it ends, so that nobody can slip a known token
                under a login.

        Returns:
            The token, 256 random bits. Only its hash is stored.

        Raises:
            AccountError: If there is no such account or it is disabled.
        """
        with write(self._engine) as connection:
            row = _known(connection, plain(user))
            if row.disabled:
                raise AccountError(
                    f"user {row.user!r} is disabled; an operator can enable the account"
                )
            if old_token:
                sessions.end(connection, old_token)
            return sessions.start(connection, row.user, self._clock(), self._lifetime)

    def session(self, token: str) -> Account | None:
        """Return whose session this is; none if it does not run or has ended."""
        now = self._clock()
        with self._engine.connect() as connection:
            found = sessions.find(connection, token, now, self._lifetime)
            row = None if found is None else _row(connection, found[0])
        if found is None or row is None or row.disabled:
            return None
        if found[1]:
            with write(self._engine) as connection:
                sessions.touch(connection, token, now)
        return _account(row)

    def close_session(self, token: str) -> None:
        """End a session, if it runs."""
        with write(self._engine) as connection:
            sessions.end(connection, token)

    def close_all(self, user: str) -> int:
        """End all sessions of a user; return how many there were."""
        with write(self._engine) as connection:
            return sessions.end_all(connection, plain(user))

    def list(self) -> tuple[Account, ...]:
        """Return all accounts by name."""
        with self._engine.connect() as connection:
            return tuple(
                _account(row) for row in connection.execute(select(USERS).order_by(USERS.c.user))
            )

    @cached_property
    def _decoy(self) -> str:
        return self._hasher.hash(secrets.token_bytes(sessions.TOKEN_BYTES))

    def _hash(self, name: str, password: str) -> str:
        check_password(name, password)
        return self._hasher.hash(normal(password))

    def _fits(self, password_hash: str, password: str) -> bool:
        given = password if len(password) <= LONGEST_PASSWORD else ""  # the empty one is nobody's
        try:
            return self._hasher.verify(password_hash, normal(given))
        except (VerificationError, InvalidHashError):
            return False

    def _renew(self, name: str, old: str, password: str) -> None:
        new = self._hasher.hash(normal(password))
        with write(self._engine) as connection:  # unless the password was changed meanwhile
            connection.execute(
                update(USERS)
                .where(USERS.c.user == name, USERS.c.password_hash == old)
                .values(password_hash=new)
            )

    def _change(self, name: str, by: Actor, what: str, values: dict[str, Any]) -> None:
        with self.audit.writing() as connection:
            row = _known(connection, name)
            connection.execute(update(USERS).where(USERS.c.user == name).values(values))
            sessions.end_all(connection, name)
            self._log(connection, by, what, name, row.hospital, {})

    def _log(
        self,
        connection: Connection,
        by: Actor,
        what: str,
        name: str,
        hospital: str | None,
        details: dict[str, Any],
    ) -> None:
        self.audit.append(
            connection, by.user, by.role, hospital, f"account.{what}", f"user {name}", details
        )


def _row(connection: Connection, name: str) -> Stored | None:
    if not is_name(name):  # else a text that no database can hold would stop it
        return None
    return connection.execute(select(USERS).where(USERS.c.user == name)).first()


def _known(connection: Connection, name: str) -> Stored:
    row = _row(connection, name)
    if row is None:
        raise AccountError(
            f"user {name[:60]!r} does not exist; `fedka users list` shows those who do"
        )
    return row


def _account(row: Stored) -> Account:
    return Account(row.user, Role(row.role), row.hospital, row.disabled, row.created)
