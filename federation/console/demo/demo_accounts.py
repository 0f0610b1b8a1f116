"""The demo's people: accounts with random passwords that are shown once. Knows no pages."""

import secrets
from dataclasses import dataclass

from federation.console.services import Services
from twin.review.workflow import Role

_PASSWORD_BYTES = 12


@dataclass(frozen=True)
class Person:
    """Somebody who can log in.

    Args:
        user: Name.
        role: As what.
        hospital: Of which hospital; none: of the federation.
        password: Told once, kept nowhere.
    """

    user: str
    role: Role
    hospital: str | None
    password: str

    def __repr__(self) -> str:
        """Without the password: a repr ends up in logs."""
        return f"Person({self.user!r}, {self.role.value!r}, {self.hospital!r})"


def add_people(services: Services) -> list[Person]:
    """Make the accounts that are missing: a clinician and an approver of each hospital, an operator, an auditor.

    Returns:
        Those that were made now.
    """
    wanted: list[tuple[str, Role, str | None]] = [
        (f"{role.value}.{hospital}", role, hospital)
        for hospital in services.settings.hospitals
        for role in (Role.CLINICIAN, Role.APPROVER)
    ]
    wanted += [("operator", Role.OPERATOR, None), ("auditor", Role.AUDITOR, None)]
    there = {each.user for each in services.accounts.list()}
    people = [
        Person(user, role, place, secrets.token_urlsafe(_PASSWORD_BYTES))
        for user, role, place in wanted
        if user not in there
    ]
    for person in people:
        services.accounts.add(person.user, person.password, person.role, person.hospital)
    return people


def as_lines(people: list[Person]) -> str:
    """Return names and passwords as a file holds them, one person a line, with tabs."""
    return "".join(f"{each.user}\t{each.password}\n" for each in people)
