"""Where each role can go from every page.

Knows the addresses, not who may open them: ``roles.py`` decides that, a test holds both together.
"""

from dataclasses import dataclass
from typing import Protocol

from twin.review.workflow import Role

_MENU: dict[Role, tuple[tuple[str, str], ...]] = {
    Role.CLINICIAN: (
        ("/", "Home"),
        ("/cases", "Cases"),
        ("/trainings", "Trainings"),
        ("/twin", "Twin"),
        ("/catalogue", "Catalogue"),
        ("/intake", "Add images"),
    ),
    Role.APPROVER: (
        ("/", "Home"),
        ("/cases", "Cases"),
        ("/trainings", "Trainings"),
        ("/twin", "Twin"),
        ("/catalogue", "Catalogue"),
    ),
    Role.OPERATOR: (
        ("/", "Home"),
        ("/operator", "Federation"),
        ("/cases", "Cases"),
        ("/trainings", "Trainings"),
        ("/catalogue", "Catalogue"),
        ("/users", "Users"),
        ("/audit", "Audit"),
    ),
    Role.AUDITOR: (
        ("/", "Home"),
        ("/audit", "Audit"),
        ("/operator", "Federation"),
        ("/trainings", "Trainings"),
        ("/catalogue", "Catalogue"),
    ),
}


class HasRole(Protocol):
    """Whoever reads a page."""

    @property
    def role(self) -> Role:
        """As what they read it."""


@dataclass(frozen=True)
class Entry:
    """One entry; ``here`` if the page belongs to it."""

    href: str
    words: str
    here: bool


def menu(visitor: HasRole, path: str) -> tuple[Entry, ...]:
    """Return the entries for a reader, with the one to which a page belongs marked."""
    return tuple(
        Entry(href, words, _belongs(path, href)) for href, words in _MENU.get(visitor.role, ())
    )


def _belongs(path: str, href: str) -> bool:
    if href == "/trainings" and path.startswith("/comparisons/"):
        return True
    if href == "/operator" and path.startswith("/twins/"):
        return True
    return path == href or (href != "/" and path.startswith(f"{href}/"))
