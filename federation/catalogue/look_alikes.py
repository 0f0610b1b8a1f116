"""Which entries of the catalogue may be the same class as a name that is about to be proposed, and why. Pure functions over entries."""

from collections.abc import Iterable
from dataclasses import dataclass

from federation.catalogue.class_names import (
    CLOSE_SPELLING,
    check_code,
    check_name,
    code_key,
    exact_key,
    similarity,
    words,
)
from federation.catalogue.entries import Entry

_MOST_SUGGESTIONS = 8


@dataclass(frozen=True)
class Suggestion:
    """An entry that may be what somebody is about to propose.

    Args:
        entry: Which.
        why: In words.
        similarity: How sure, in [0, 1]; 1: the same name or code.
    """

    entry: Entry
    why: str
    similarity: float


def look_alikes(
    entries: Iterable[Entry], name: str, code_system: str = "", code: str = ""
) -> list[Suggestion]:
    """Return entries that may be the same class, the likeliest first.

    Args:
        entries: Those that there are, without merged ones.
        name: The new name.
        code_system: Of ``code``; both or neither.
        code: Of the new class.

    Raises:
        CatalogueError: If name or code are not allowed.
    """
    name, wanted = check_name(name), code_key(*check_code(code_system, code))
    found = [
        each for each in (_look_alike(entry, name, wanted) for entry in entries) if each is not None
    ]
    return sorted(found, key=lambda each: (-each.similarity, exact_key(each.entry.name)))[
        :_MOST_SUGGESTIONS
    ]


def _look_alike(entry: Entry, name: str, wanted_code: str) -> Suggestion | None:
    if exact_key(name) == exact_key(entry.name):
        return Suggestion(entry, "the same name", 1.0)
    if wanted_code and wanted_code == code_key(entry.code_system, entry.code):
        return Suggestion(entry, f"the same code, {entry.code_system} {entry.code}", 1.0)
    if exact_key(name) in map(exact_key, entry.synonyms):
        return Suggestion(entry, f"a synonym of {entry.name}", 1.0)
    if (
        wanted_code
        and entry.code
        and wanted_code.partition(":")[0]
        == code_key(entry.code_system, entry.code).partition(":")[0]
    ):
        return None  # two codes of one system are two things
    if words(name) and words(name) in [words(each) for each in (entry.name, *entry.synonyms)]:
        return Suggestion(entry, "the same words in another order, case or form", 0.95)
    close = max((similarity(name, each), each) for each in (entry.name, *entry.synonyms))
    return (
        Suggestion(entry, f"nearly the same spelling as {close[1]}", min(close[0], 0.94))
        if close[0] >= CLOSE_SPELLING
        else None
    )
