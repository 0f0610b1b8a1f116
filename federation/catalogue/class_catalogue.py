"""What people do with the catalogue: propose, approve, merge, split; each act is one transaction with a line in the entry's history."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, cast

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
    find_entry,
    owner_of,
    read_entries,
)
from federation.catalogue.look_alikes import Suggestion, look_alikes
from twin.review.database import open_database, stamp, utc_now, write

_MOST_SYNONYMS = 20


class ClassCatalogue:
    """The catalogue.

    Args:
        url: SQLAlchemy's, of the console's database.
        clock: The time, in UTC.
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
        """Enter a new class; a name or synonym that is known already is answered with its entry.

        Args:
            name: Of the class.
            actor: Who proposes.
            hospital: Where.
            code_system: Of ``code``; both or neither.
            code: Of the class.
            synonyms: What it is called besides.
            text: For people.

        Raises:
            CatalogueError: If name, code or text are not allowed, a synonym is another class's, or the known class has another code.
        """
        name, (code_system, code) = check_name(name), check_code(code_system, code)
        names, text = [name, *map(check_name, synonyms)], check_text(text)
        if len(names) > _MOST_SYNONYMS:
            raise CatalogueError(
                f"{name!r} has {len(names) - 1} synonyms; allowed: fewer than {_MOST_SYNONYMS}; keep the usual ones"
            )
        with write(self._engine) as connection:
            known = owner_of(connection, name)
            if known is not None:
                entry = find_entry(connection, known)
                if (
                    code
                    and entry.code
                    and code_key(code_system, code) != code_key(entry.code_system, entry.code)
                ):
                    raise CatalogueError(
                        f"{name!r} is known as {entry.name!r} with {entry.code_system} {entry.code}; got {code_system} {code}; use the "
                        "known class, or give the new one another name"
                    )
                self._note(
                    connection,
                    known,
                    actor,
                    f"proposed again{_of(hospital)} as {name}{_coded(code_system, code)}",
                )
                return entry
            values = {
                "name": name,
                "state": "proposed",
                "learned": False,
                "code_system": code_system,
                "code": code,
                "text": text,
            }
            values |= {"proposed_by": actor, "hospital": hospital, "proposed_at": self._now()}
            key = connection.execute(insert(ENTRIES).values(**values)).inserted_primary_key
            entry_id = cast(int, key[0])  # type: ignore[index]
            self._add_words(connection, entry_id, names)
            self._note(
                connection, entry_id, actor, f"proposed{_of(hospital)}{_coded(code_system, code)}"
            )
            return find_entry(connection, entry_id)

    def adopt(self, names: Iterable[str], actor: str) -> list[Entry]:
        """Enter the classes of a model that serves, as approved and learned; those that are known are only marked."""
        entries = [self.propose(name, actor, None) for name in names]
        with write(self._engine) as connection:
            for entry in entries:
                if entry.state == "proposed":
                    self._change(
                        connection,
                        entry.entry_id,
                        state="approved",
                        approved_by=actor,
                        approved_at=self._now(),
                    )
                    self._note(
                        connection,
                        entry.entry_id,
                        actor,
                        "approved: a class of the model that serves",
                    )
        self.mark_learned([entry.name for entry in entries])
        return [self.get(entry.entry_id) for entry in entries]

    def mark_learned(self, names: Iterable[str]) -> None:
        """Say that a released model has rows of these names: from now on others are merged into them, never they into others."""
        with write(self._engine) as connection:
            for name in names:
                entry_id = owner_of(connection, name)
                if entry_id is not None:
                    self._change(connection, entry_id, learned=True)

    def approve(self, entry_id: int, actor: str) -> Entry:
        """Approve a proposal; to approve twice changes nothing.

        Raises:
            CatalogueError: If it was merged, or the person is the one who proposed it.
        """
        with write(self._engine) as connection:
            entry = find_entry(connection, entry_id)
            if entry.state == "proposed":
                if actor == entry.proposed_by:
                    raise CatalogueError(
                        f"{entry.name!r} was proposed by {actor}; allowed: approval by another person; ask a colleague"
                    )
                self._change(
                    connection,
                    entry_id,
                    state="approved",
                    approved_by=actor,
                    approved_at=self._now(),
                )
                self._note(connection, entry_id, actor, "approved")
            elif entry.state == "merged":
                raise CatalogueError(
                    f"{entry.name!r} was merged into entry {entry.merged_into}; approve that one, or undo the merge"
                )
            return find_entry(connection, entry_id)

    def merge(self, entry_id: int, into_id: int, actor: str, reason: str) -> Entry:
        """Make all words of one entry synonyms of another; a class code of the merged one is kept where the other has none.

        Returns:
            The entry that stays.

        Raises:
            CatalogueError: If one of them is merged already, both are the same, or the first has a row in a released model.
        """
        with write(self._engine) as connection:
            entry, into = find_entry(connection, entry_id), find_entry(connection, into_id)
            if entry.state == "merged" and entry.merged_into == into_id:
                return into
            if entry_id == into_id or "merged" in (entry.state, into.state):
                raise CatalogueError(
                    f"{entry.name!r} ({entry.state}) cannot be merged into {into.name!r} ({into.state}); allowed: two different entries of "
                    "which none is merged; choose the one that stayed"
                )
            if entry.learned:
                raise CatalogueError(
                    f"{entry.name!r} has a row in a released model; allowed: merging a class that no model knows; merge {into.name!r} into "
                    "it instead"
                )
            reason = check_text(reason, "reason")
            connection.execute(
                update(WORDS).where(WORDS.c.entry_id == entry_id).values(entry_id=into_id)
            )
            # What was merged into it before goes along, and points at what stays.
            connection.execute(
                update(ENTRIES).where(ENTRIES.c.merged_into == entry_id).values(merged_into=into_id)
            )
            self._change(connection, entry_id, state="merged", merged_into=into_id)
            if entry.code and not into.code:
                self._change(connection, into_id, code_system=entry.code_system, code=entry.code)
            self._note(connection, entry_id, actor, f"merged into {into.name}: {reason}")
            self._note(
                connection,
                into_id,
                actor,
                f"took {entry.name}{_coded(entry.code_system, entry.code)}: {reason}",
            )
            return find_entry(connection, into_id)

    def split(self, entry_id: int, actor: str, reason: str) -> Entry:
        """Undo a merge: the entry has its own words again and waits for approval.

        Raises:
            CatalogueError: If it is not merged.
        """
        with write(self._engine) as connection:
            entry = find_entry(connection, entry_id)
            if entry.state != "merged" or entry.merged_into is None:
                raise CatalogueError(
                    f"{entry.name!r} is {entry.state}; allowed: an entry that was merged; there is nothing to undo"
                )
            reason = check_text(reason, "reason")
            into = find_entry(connection, entry.merged_into)
            connection.execute(
                update(WORDS).where(WORDS.c.origin_id == entry_id).values(entry_id=entry_id)
            )
            self._change(
                connection,
                entry_id,
                state="proposed",
                merged_into=None,
                approved_by=None,
                approved_at=None,
            )
            if entry.code and (entry.code_system, entry.code) == (into.code_system, into.code):
                self._change(
                    connection, into.entry_id, code_system="", code=""
                )  # it had come with the merged one
            self._note(connection, entry_id, actor, f"split from {into.name}: {reason}")
            self._note(connection, into.entry_id, actor, f"gave {entry.name} back: {reason}")
            return find_entry(connection, entry_id)

    def entries(self, merged: bool = False) -> list[Entry]:
        """Return all entries by name, with or without those that were merged."""
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
            return find_entry(connection, entry_id)

    def find(self, name: str) -> Entry | None:
        """Return the entry to which a name or synonym leads, whatever its case; none if nobody knows it."""
        with self._engine.connect() as connection:
            entry_id = owner_of(connection, name)
            return None if entry_id is None else find_entry(connection, entry_id)

    def resolve(self, name: str) -> str:
        """Return the name that stays for a name or synonym.

        Raises:
            CatalogueError: If nobody knows it.
        """
        entry = self.find(name)
        if entry is None:
            close = (
                ", ".join(each.entry.name for each in self.suggestions(name)[:3])
                if name.strip()
                else ""
            )
            raise CatalogueError(
                f"no class is called {name!r}; known: {close or 'see the catalogue'}; choose one of these, or propose it"
            )
        return entry.name

    def suggestions(self, name: str, code_system: str = "", code: str = "") -> list[Suggestion]:
        """Return entries that may be the same class as one that is about to be proposed, the likeliest first.

        Raises:
            CatalogueError: If name or code are not allowed.
        """
        return look_alikes(self.entries(), name, code_system, code)

    def history(self, entry_id: int) -> list[Event]:
        """Return what was done to an entry, oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(EVENTS).where(EVENTS.c.entry_id == entry_id).order_by(EVENTS.c.event_id)
            )
            return [Event(row.at, row.actor, row.what) for row in rows]

    def forget(self, entry_id: int) -> None:
        """Remove a proposal that nobody approved: a slip.

        Raises:
            CatalogueError: If it is approved, merged, or others were merged into it.
        """
        with write(self._engine) as connection:
            entry = find_entry(connection, entry_id)
            others = connection.execute(
                select(ENTRIES.c.entry_id).where(ENTRIES.c.merged_into == entry_id)
            ).first()
            if entry.state != "proposed" or entry.learned or others is not None:
                raise CatalogueError(
                    f"{entry.name!r} is {entry.state} or others were merged into it; allowed: a proposal; merge it"
                )
            for table in (WORDS, EVENTS, ENTRIES):
                connection.execute(delete(table).where(table.c.entry_id == entry_id))

    def _now(self) -> str:
        return stamp(self._clock())

    def _add_words(self, connection: Connection, entry_id: int, names: Sequence[str]) -> None:
        for key, written in {exact_key(name): name for name in reversed(names)}.items():
            taken = connection.execute(select(WORDS.c.entry_id).where(WORDS.c.key == key)).scalar()
            if taken is not None:
                other = find_entry(connection, taken)
                raise CatalogueError(
                    f"{written!r} is already a name of {other.name!r}; leave it out, or merge the two classes"
                )
            connection.execute(
                insert(WORDS).values(
                    key=key, written=written, entry_id=entry_id, origin_id=entry_id
                )
            )

    def _change(self, connection: Connection, entry_id: int, **values: Any) -> None:
        connection.execute(update(ENTRIES).where(ENTRIES.c.entry_id == entry_id).values(**values))

    def _note(self, connection: Connection, entry_id: int, actor: str, what: str) -> None:
        connection.execute(
            insert(EVENTS).values(entry_id=entry_id, at=self._now(), actor=actor, what=what)
        )


def _of(hospital: str | None) -> str:
    return f" by {hospital}" if hospital else ""


def _coded(system: str, code: str) -> str:
    return f" ({system} {code})" if code else ""
