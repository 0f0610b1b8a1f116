"""Entries of the catalogue: their dataclasses, database tables and queries that read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    select,
)

from federation.catalogue.class_names import CatalogueError, check_name, exact_key

State = Literal["proposed", "approved", "merged"]

TABLES = MetaData()
ENTRIES = Table(
    "catalogue_entry",
    TABLES,
    Column("entry_id", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("state", String, nullable=False),
    Column("learned", Boolean, nullable=False),
    Column("code_system", String, nullable=False),
    Column("code", String, nullable=False),
    Column("text", Text, nullable=False),
    Column("proposed_by", String, nullable=False),
    Column("hospital", String),
    Column("proposed_at", String, nullable=False),
    Column("approved_by", String),
    Column("approved_at", String),
    Column("merged_into", Integer, ForeignKey("catalogue_entry.entry_id")),
)
# Names and synonyms. Each belongs to one entry; its key ignores upper and lower case.
WORDS = Table(
    "catalogue_word",
    TABLES,
    Column("key", String, primary_key=True),
    Column("written", String, nullable=False),
    Column("entry_id", Integer, ForeignKey("catalogue_entry.entry_id"), nullable=False, index=True),
    # The entry to which the word belonged before any merge.
    Column("origin_id", Integer, ForeignKey("catalogue_entry.entry_id"), nullable=False),
)
EVENTS = Table(
    "catalogue_event",
    TABLES,
    Column("event_id", Integer, primary_key=True),
    Column("entry_id", Integer, ForeignKey("catalogue_entry.entry_id"), nullable=False, index=True),
    Column("at", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("what", Text, nullable=False),
)


@dataclass(frozen=True)
class Entry:
    """A class of the catalogue.

    Args:
        entry_id: Its number.
        name: Name of the class, in every model too.
        state: ``proposed``, ``approved`` (by another person), or ``merged`` into another entry.
        learned: Whether a released model has a row for it; its name cannot change then.
        code_system: System of ``code``, such as SNOMED CT; empty without a code.
        code: Code of the class in that system.
        text: Description for people.
        synonyms: Other names of the class.
        proposed_by: Person who proposed it.
        hospital: Hospital that proposed it; none for the federation itself.
        proposed_at: Time of the proposal, UTC, ISO 8601.
        approved_by: Person who approved it; none before.
        approved_at: Time of the approval; none before.
        merged_into: Number of the entry into which it was merged; none unless merged.
    """

    entry_id: int
    name: str
    state: State
    learned: bool
    code_system: str
    code: str
    text: str
    synonyms: tuple[str, ...]
    proposed_by: str
    hospital: str | None
    proposed_at: str
    approved_by: str | None
    approved_at: str | None
    merged_into: int | None


@dataclass(frozen=True)
class Event:
    """One change of an entry: when, by whom, and what was done."""

    at: str
    actor: str
    what: str


def find_entry_id(connection: Connection, name: str) -> int | None:
    """Return the number of the entry with a name or synonym; none if there is none."""
    try:
        key = exact_key(check_name(name))
    except CatalogueError:
        return None
    return connection.execute(select(WORDS.c.entry_id).where(WORDS.c.key == key)).scalar()


def read_entry(connection: Connection, entry_id: int) -> Entry:
    """Return an entry.

    Raises:
        CatalogueError: If there is none.
    """
    found = read_entries(connection, entry_id)
    if not found:
        raise CatalogueError(f"the catalogue has no entry {entry_id}; choose one of its list")
    return found[0]


def read_entries(connection: Connection, entry_id: int | None = None) -> list[Entry]:
    """Return all entries or one, with their synonyms."""
    words, rows = select(WORDS).order_by(WORDS.c.written), select(ENTRIES)
    if entry_id is not None:
        words = words.where(WORDS.c.entry_id == entry_id)
        rows = rows.where(ENTRIES.c.entry_id == entry_id)
    names: dict[int, list[str]] = {}
    for word in connection.execute(words):
        names.setdefault(word.entry_id, []).append(word.written)
    return [_entry(row, names.get(row.entry_id, [])) for row in connection.execute(rows)]


def _entry(row: Any, names: Sequence[str]) -> Entry:
    key = exact_key(row.name)
    return Entry(**row._mapping, synonyms=tuple(each for each in names if exact_key(each) != key))
