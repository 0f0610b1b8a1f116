"""Entries of the catalogue: what they look like to their readers, their tables, and how they are read. Changes nothing."""

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
WORDS = Table(  # names and synonyms: each belongs to one entry, whatever its case
    "catalogue_word",
    TABLES,
    Column("key", String, primary_key=True),
    Column("written", String, nullable=False),
    Column("entry_id", Integer, ForeignKey("catalogue_entry.entry_id"), nullable=False, index=True),
    Column(
        "origin_id", Integer, ForeignKey("catalogue_entry.entry_id"), nullable=False
    ),  # whose it was before any merge
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
    """One class.

    Args:
        entry_id: Its number.
        name: What the class is called, in every model too.
        state: ``proposed``, ``approved`` (by another person), or ``merged`` into another entry.
        learned: A released model has a row for it; its name cannot change any more.
        code_system: Of ``code``, such as SNOMED CT; empty without a code.
        code: Of the class in that system.
        text: What people wrote about it.
        synonyms: What it is called besides.
        proposed_by: Who.
        hospital: Where; none for the federation's own.
        proposed_at: When, UTC, ISO 8601.
        approved_by: Who; none before.
        approved_at: When; none before.
        merged_into: The entry that took its words; none unless merged.
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
    """What was done to an entry: when, by whom, what."""

    at: str
    actor: str
    what: str


def owner_of(connection: Connection, name: str) -> int | None:
    """Return the number of the entry to which a name or synonym leads; none if nobody knows it."""
    try:
        key = exact_key(check_name(name))
    except CatalogueError:
        return None
    return connection.execute(select(WORDS.c.entry_id).where(WORDS.c.key == key)).scalar()


def find_entry(connection: Connection, entry_id: int) -> Entry:
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
    spoken, rows = select(WORDS), select(ENTRIES)
    if entry_id is not None:
        spoken, rows = (
            spoken.where(WORDS.c.entry_id == entry_id),
            rows.where(ENTRIES.c.entry_id == entry_id),
        )
    synonyms: dict[int, list[str]] = {}
    for word in connection.execute(spoken.order_by(WORDS.c.written)):
        synonyms.setdefault(word.entry_id, []).append(word.written)
    return [_read(row, synonyms.get(row.entry_id, [])) for row in connection.execute(rows)]


def _read(row: Any, spoken: Sequence[str]) -> Entry:
    values = dict(row._mapping)
    return Entry(
        **values,
        synonyms=tuple(each for each in spoken if exact_key(each) != exact_key(values["name"])),
    )
