"""The menu of each role, shown on every page.

``roles.py`` decides who may open an address; a test checks that the menus agree with it.
"""

from dataclasses import dataclass

from federation.console.services import Visitor
from twin.review.workflow import Role

_HOME, _CASES, _TRAININGS = ("/", "Home"), ("/cases", "Cases"), ("/trainings", "Trainings")
_TWIN, _CATALOGUE, _INTAKE = (
    ("/twin", "Twin"),
    ("/catalogue", "Catalogue"),
    ("/intake", "Add images"),
)
_OPERATOR, _USERS, _AUDIT = ("/operator", "Federation"), ("/users", "Users"), ("/audit", "Audit")
_STAFF_MENU = (_HOME, _CASES, _TRAININGS, _TWIN, _CATALOGUE)
_MENU: dict[Role, tuple[tuple[str, str], ...]] = {
    Role.CLINICIAN: (*_STAFF_MENU, _INTAKE),
    Role.APPROVER: _STAFF_MENU,
    Role.OPERATOR: (_HOME, _OPERATOR, _CASES, _TRAININGS, _CATALOGUE, _USERS, _AUDIT),
    Role.AUDITOR: (_HOME, _AUDIT, _OPERATOR, _TRAININGS, _CATALOGUE),
}
# Pages without an entry of their own belong to one of these.
_PARENTS = {"/comparisons/": "/trainings", "/twins/": "/operator"}


@dataclass(frozen=True)
class MenuEntry:
    """One entry; ``here`` if the present page belongs to it."""

    href: str
    label: str
    here: bool


def menu(visitor: Visitor, path: str) -> tuple[MenuEntry, ...]:
    """Return the menu of a visitor with the entry of the present page marked."""
    return tuple(
        MenuEntry(href, label, _belongs_to(path, href))
        for href, label in _MENU.get(visitor.role, ())
    )


def _belongs_to(path: str, href: str) -> bool:
    if any(path.startswith(start) and href == parent for start, parent in _PARENTS.items()):
        return True
    return path == href or (href != "/" and path.startswith(f"{href}/"))
