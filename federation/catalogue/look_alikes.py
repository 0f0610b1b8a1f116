"""Search for catalogue entries that may be the same class as a new name. Pure functions."""

from collections.abc import Iterable
from dataclasses import dataclass

from federation.catalogue.class_names import (
    SIMILAR_SPELLING,
    check_code,
    check_name,
    code_key,
    exact_key,
    similarity,
    words,
)
from federation.catalogue.entries import Entry

_MAX_SUGGESTIONS = 8


@dataclass(frozen=True)
class Suggestion:
    """An entry that may be the same class as a new name.

    Args:
        entry: The entry.
        why: The reason in words.
        similarity: Similarity to the new name, in [0, 1]; 1: the same name or code.
    """

    entry: Entry
    why: str
    similarity: float


def look_alikes(
    entries: Iterable[Entry], name: str, code_system: str = "", code: str = ""
) -> list[Suggestion]:
    """Return the entries that may be the same class, the most similar first.

    Args:
        entries: Entries of the catalogue, without merged ones.
        name: The new name.
        code_system: System of ``code``; give both or neither.
        code: Code of the new class.

    Raises:
        CatalogueError: If name or code is not allowed.
    """
    name, wanted = check_name(name), code_key(*check_code(code_system, code))
    found = [each for entry in entries if (each := _look_alike(entry, name, wanted)) is not None]
    found.sort(key=lambda each: (-each.similarity, exact_key(each.entry.name)))
    return found[:_MAX_SUGGESTIONS]


def _look_alike(entry: Entry, name: str, wanted_code: str) -> Suggestion | None:
    code = code_key(entry.code_system, entry.code)
    if exact_key(name) == exact_key(entry.name):
        return Suggestion(entry, "the same name", 1.0)
    if wanted_code and wanted_code == code:
        return Suggestion(entry, f"the same code, {entry.code_system} {entry.code}", 1.0)
    if exact_key(name) in map(exact_key, entry.synonyms):
        return Suggestion(entry, f"a synonym of {entry.name}", 1.0)
    if wanted_code and code and wanted_code.partition(":")[0] == code.partition(":")[0]:
        return None  # two codes of one system are two classes
    names = (entry.name, *entry.synonyms)
    if words(name) and words(name) in [words(each) for each in names]:
        return Suggestion(entry, "the same words in another order, case or form", 0.95)
    highest, closest = max((similarity(name, each), each) for each in names)
    if highest < SIMILAR_SPELLING:
        return None
    return Suggestion(entry, f"nearly the same spelling as {closest}", min(highest, 0.94))
