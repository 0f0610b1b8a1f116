"""Accounts of the demo, with random passwords that are shown once."""

import secrets
from dataclasses import dataclass

from federation.console.services import Services
from twin.review.workflow import Role

_PASSWORD_BYTES = 12


@dataclass(frozen=True)
class Person:
    """A person with an account.

    Args:
        user: Name of the account.
        role: Role of the account.
        hospital: Hospital of the account; None for operators and auditors.
        password: Shown once and stored nowhere.
    """

    user: str
    role: Role
    hospital: str | None
    password: str

    def __repr__(self) -> str:
        """Leave the password out, because a repr ends up in logs."""
        return f"Person({self.user!r}, {self.role.value!r}, {self.hospital!r})"


def add_people(services: Services) -> list[Person]:
    """Make the missing accounts: clinician and approver per hospital, operator, auditor.

    Returns:
        The accounts that were made now.
    """
    wanted: list[tuple[str, Role, str | None]] = [
        (f"{role.value}.{hospital}", role, hospital)
        for hospital in services.settings.hospitals
        for role in (Role.CLINICIAN, Role.APPROVER)
    ]
    wanted += [("operator", Role.OPERATOR, None), ("auditor", Role.AUDITOR, None)]
    existing = {each.user for each in services.accounts.list()}
    people = [
        Person(user, role, place, secrets.token_urlsafe(_PASSWORD_BYTES))
        for user, role, place in wanted
        if user not in existing
    ]
    for person in people:
        services.accounts.add(person.user, person.password, person.role, person.hospital)
    return people


def password_lines(people: list[Person]) -> str:
    """Return names and passwords for a file, one person per line, separated by a tab."""
    return "".join(f"{each.user}\t{each.password}\n" for each in people)
