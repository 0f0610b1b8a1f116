"""The catalogue of class names and its changes: propose, approve, merge, split, delete.

Each change is one database transaction that also adds a line to the entry's history.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from federation.catalogue.class_names import (
    CatalogueError,
    check_code,
    check_name,
    check_text,
    code_key,
    exact_key,
)
from federation.catalogue.entries import (
    ENTRIES,
    EVENTS,
    TABLES,
    WORDS,
    Entry,
    Event,
    find_entry_id,
    read_entries,
    read_entry,
)
from federation.catalogue.look_alikes import Suggestion, look_alikes
from twin.review.database import open_database, stamp, utc_now, write

_MAX_SYNONYMS = 20


class ClassCatalogue:
    """The catalogue of class names, in the console's database.

    Args:
        url: SQLAlchemy's URL of the database.
        clock: Returns the time, in UTC.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] = utc_now) -> None:
        self._engine = open_database(url)
        self._clock = clock
        with write(self._engine) as connection:
            TABLES.create_all(connection)

    def propose(
        self,
        name: str,
        actor: str,
        hospital: str | None,
        code_system: str = "",
        code: str = "",
        synonyms: Sequence[str] = (),
        text: str = "",
    ) -> Entry:
        """Propose a class. If the name is known, return its entry instead of adding one.

        Args:
            name: Name of the class.
            actor: Person who proposes it.
            hospital: Hospital of this person; none for the federation itself.
            code_system: System of ``code``; give both or neither.
            code: Code of the class.
            synonyms: Other names of the class.
            text: Description for people.

        Raises:
            CatalogueError: If name, code or text is not allowed, a synonym belongs to another
                class, or the known class has another code.
        """
        name, (code_system, code) = check_name(name), check_code(code_system, code)
        names, text = [name, *map(check_name, synonyms)], check_text(text)
        if len(names) > _MAX_SYNONYMS:
            raise CatalogueError(
                f"{name!r} has {len(names) - 1} synonyms; allowed: fewer than {_MAX_SYNONYMS}; "
                "keep the usual ones"
            )
        origin = f" by {hospital}" if hospital else ""
        with write(self._engine) as connection:
            known = find_entry_id(connection, name)
            if known is not None:
                entry = read_entry(connection, known)
                known_key = code_key(entry.code_system, entry.code)
                if code and known_key and code_key(code_system, code) != known_key:
                    raise CatalogueError(
                        f"{name!r} is known as {entry.name!r} with {entry.code_system} "
                        f"{entry.code}; got {code_system} {code}; use the known class, or give the "
                        "new one another name"
                    )
                what = f"proposed again{origin} as {name}{_in_brackets(code_system, code)}"
                self._add_event(connection, known, actor, what)
                return entry
            values = {
                "name": name,
                "state": "proposed",
                "learned": False,
                "code_system": code_system,
                "code": code,
                "text": text,
                "proposed_by": actor,
                "hospital": hospital,
                "proposed_at": stamp(self._clock()),
            }
            added = insert(ENTRIES).values(**values).returning(ENTRIES.c.entry_id)
            entry_id = connection.execute(added).scalar_one()
            _add_words(connection, entry_id, names)
            what = f"proposed{origin}{_in_brackets(code_system, code)}"
            self._add_event(connection, entry_id, actor, what)
            return read_entry(connection, entry_id)

    def add_model_classes(self, names: Iterable[str], actor: str) -> list[Entry]:
        """Enter the classes of the champion, approved and learned, unless they are known."""
        entries = [self.propose(name, actor, None) for name in names]
        with write(self._engine) as connection:
            for entry in entries:
                if entry.state == "proposed":
                    what = "approved: a class of the model that serves"
                    self._approve(connection, entry.entry_id, actor, what)
        self.mark_learned([entry.name for entry in entries])
        return [self.get(entry.entry_id) for entry in entries]

    def mark_learned(self, names: Iterable[str]) -> None:
        """Record that a released model has rows of these names.

        From now on other entries may be merged into these entries, but not these into others.
        """
        with write(self._engine) as connection:
            for name in names:
                entry_id = find_entry_id(connection, name)
                if entry_id is not None:
                    _update(connection, entry_id, learned=True)

    def approve(self, entry_id: int, actor: str) -> Entry:
        """Approve a proposal. An approved entry stays as it is.

        Raises:
            CatalogueError: If it was merged, or the same person proposed it.
        """
        with write(self._engine) as connection:
            entry = read_entry(connection, entry_id)
            if entry.state == "merged":
                raise CatalogueError(
                    f"{entry.name!r} was merged into entry {entry.merged_into}; "
                    "approve that one, or undo the merge"
                )
            if entry.state == "proposed":
                if actor == entry.proposed_by:
                    raise CatalogueError(
                        f"{entry.name!r} was proposed by {actor}; "
                        "allowed: approval by another person; ask a colleague"
                    )
                self._approve(connection, entry_id, actor, "approved")
            return read_entry(connection, entry_id)

    def merge(self, entry_id: int, into_id: int, actor: str, reason: str) -> Entry:
        """Merge an entry into another: its names become synonyms of the other.

        The other entry also takes its code, unless it has one.

        Returns:
            The entry that stays.

        Raises:
            CatalogueError: If one of them is merged already, both are the same, or the first has a
                row in a released model.
        """
        with write(self._engine) as connection:
            entry, into = read_entry(connection, entry_id), read_entry(connection, into_id)
            if entry.state == "merged" and entry.merged_into == into_id:
                return into
            if entry_id == into_id or "merged" in (entry.state, into.state):
                raise CatalogueError(
                    f"{entry.name!r} ({entry.state}) cannot be merged into {into.name!r} "
                    f"({into.state}); allowed: two different entries of which none is merged; "
                    "choose the one that stayed"
                )
            if entry.learned:
                raise CatalogueError(
                    f"{entry.name!r} has a row in a released model; allowed: merging a class that "
                    f"no model knows; merge {into.name!r} into it instead"
                )
            reason = check_text(reason, "reason")
            moved_words = update(WORDS).where(WORDS.c.entry_id == entry_id)
            connection.execute(moved_words.values(entry_id=into_id))
            # Entries that were merged into this one now point to the entry that stays.
            earlier = update(ENTRIES).where(ENTRIES.c.merged_into == entry_id)
            connection.execute(earlier.values(merged_into=into_id))
            _update(connection, entry_id, state="merged", merged_into=into_id)
            if entry.code and not into.code:
                _update(connection, into_id, code_system=entry.code_system, code=entry.code)
            self._add_event(connection, entry_id, actor, f"merged into {into.name}: {reason}")
            what = f"took {entry.name}{_in_brackets(entry.code_system, entry.code)}: {reason}"
            self._add_event(connection, into_id, actor, what)
            return read_entry(connection, into_id)

    def split(self, entry_id: int, actor: str, reason: str) -> Entry:
        """Undo a merge: the entry gets its names back and waits for approval.

        Raises:
            CatalogueError: If it is not merged.
        """
        with write(self._engine) as connection:
            entry = read_entry(connection, entry_id)
            if entry.state != "merged" or entry.merged_into is None:
                raise CatalogueError(
                    f"{entry.name!r} is {entry.state}; allowed: an entry that was merged; "
                    "there is nothing to undo"
                )
            reason = check_text(reason, "reason")
            into = read_entry(connection, entry.merged_into)
            own_words = update(WORDS).where(WORDS.c.origin_id == entry_id)
            connection.execute(own_words.values(entry_id=entry_id))
            values = {"merged_into": None, "approved_by": None, "approved_at": None}
            _update(connection, entry_id, state="proposed", **values)
            if entry.code and (entry.code_system, entry.code) == (into.code_system, into.code):
                # The code had come with the merged entry.
                _update(connection, into.entry_id, code_system="", code="")
            self._add_event(connection, entry_id, actor, f"split from {into.name}: {reason}")
            self._add_event(connection, into.entry_id, actor, f"gave {entry.name} back: {reason}")
            return read_entry(connection, entry_id)

    def entries(self, merged: bool = False) -> list[Entry]:
        """Return all entries, sorted by name, with or without merged ones."""
        with self._engine.connect() as connection:
            found = read_entries(connection)
        return sorted(
            (each for each in found if merged or each.state != "merged"),
            key=lambda each: (exact_key(each.name), each.entry_id),
        )

    def get(self, entry_id: int) -> Entry:
        """Return an entry.

        Raises:
            CatalogueError: If there is none.
        """
        with self._engine.connect() as connection:
            return read_entry(connection, entry_id)

    def find(self, name: str) -> Entry | None:
        """Return the entry with a name or synonym, in upper or lower case; none if unknown."""
        with self._engine.connect() as connection:
            entry_id = find_entry_id(connection, name)
            return None if entry_id is None else read_entry(connection, entry_id)

    def resolve(self, name: str) -> str:
        """Return the name of the entry with a name or synonym.

        Raises:
            CatalogueError: If there is none.
        """
        entry = self.find(name)
        if entry is None:
            similar = self.suggestions(name)[:3] if name.strip() else []
            known = ", ".join(each.entry.name for each in similar) or "see the catalogue"
            raise CatalogueError(
                f"no class is called {name!r}; known: {known}; choose one of these, or propose it"
            )
        return entry.name

    def suggestions(self, name: str, code_system: str = "", code: str = "") -> list[Suggestion]:
        """Return entries that may be the same class as a new one, the most similar first.

        Raises:
            CatalogueError: If name or code is not allowed.
        """
        return look_alikes(self.entries(), name, code_system, code)

    def history(self, entry_id: int) -> list[Event]:
        """Return the changes of an entry, oldest first."""
        wanted = select(EVENTS).where(EVENTS.c.entry_id == entry_id).order_by(EVENTS.c.event_id)
        with self._engine.connect() as connection:
            return [Event(row.at, row.actor, row.what) for row in connection.execute(wanted)]

    def delete_proposal(self, entry_id: int) -> None:
        """Delete an entry that was proposed by mistake.

        Raises:
            CatalogueError: If it is approved or merged, or others were merged into it.
        """
        with write(self._engine) as connection:
            entry = read_entry(connection, entry_id)
            others = select(ENTRIES.c.entry_id).where(ENTRIES.c.merged_into == entry_id)
            has_others = connection.execute(others).first() is not None
            if entry.state != "proposed" or entry.learned or has_others:
                raise CatalogueError(
                    f"{entry.name!r} is {entry.state} or others were merged into it; "
                    "allowed: a proposal; merge it"
                )
            for table in (WORDS, EVENTS, ENTRIES):
                connection.execute(delete(table).where(table.c.entry_id == entry_id))

    def _approve(self, connection: Connection, entry_id: int, actor: str, what: str) -> None:
        now = stamp(self._clock())
        _update(connection, entry_id, state="approved", approved_by=actor, approved_at=now)
        self._add_event(connection, entry_id, actor, what)

    def _add_event(self, connection: Connection, entry_id: int, actor: str, what: str) -> None:
        at = stamp(self._clock())
        values = {"entry_id": entry_id, "at": at, "actor": actor, "what": what}
        connection.execute(insert(EVENTS).values(**values))


def _add_words(connection: Connection, entry_id: int, names: Sequence[str]) -> None:
    for key, written in {exact_key(name): name for name in reversed(names)}.items():
        taken = connection.execute(select(WORDS.c.entry_id).where(WORDS.c.key == key)).scalar()
        if taken is not None:
            other = read_entry(connection, taken)
            raise CatalogueError(
                f"{written!r} is already a name of {other.name!r}; "
                "leave it out, or merge the two classes"
            )
        values = {"key": key, "written": written, "entry_id": entry_id, "origin_id": entry_id}
        connection.execute(insert(WORDS).values(**values))


def _update(connection: Connection, entry_id: int, **values: Any) -> None:
    connection.execute(update(ENTRIES).where(ENTRIES.c.entry_id == entry_id).values(**values))


def _in_brackets(system: str, code: str) -> str:
    return f" ({system} {code})" if code else ""
