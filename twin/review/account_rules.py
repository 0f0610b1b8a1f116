"""Rules for accounts: allowed names, roles, hospitals and passwords."""

import re
import unicodedata

from twin.review.workflow import SYSTEM, Role

ACCOUNT_ROLES = (Role.CLINICIAN, Role.APPROVER, Role.OPERATOR, Role.AUDITOR)
HOSPITAL_ROLES = frozenset(
    {Role.CLINICIAN, Role.APPROVER}
)  # these see one hospital's images; the others see none
SHORTEST_PASSWORD, LONGEST_PASSWORD = 12, 1024  # characters
_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")


class AccountError(ValueError):
    """An account that cannot be made, found or changed so."""


def plain(user: str) -> str:
    """Return a user name as it is stored."""
    return user.strip().lower()


def is_name(name: str) -> bool:
    """Return whether a stored user name can read so."""
    return _NAME.fullmatch(name) is not None


def checked_name(user: str) -> str:
    """Return a new account's name as it is stored.

    Raises:
        AccountError: If it cannot be one.
    """
    name = plain(user)
    if not is_name(name) or name == SYSTEM.user:
        raise AccountError(
            f"user name is {user[:60]!r}; allowed: 1 to 64 of a-z, 0-9 and . _ @ + -, beginning "
            "with a letter or digit, "
            f"and not {SYSTEM.user!r}"
        )
    return name


def check_place(role: Role, hospital: str | None) -> None:
    """Refuse a role that is no person's, and a hospital that does not go with it.

    Raises:
        AccountError: Says what goes together.
    """
    if role not in ACCOUNT_ROLES:
        raise AccountError(f"role is {role!r}; allowed: {', '.join(ACCOUNT_ROLES)}")
    if bool(hospital) != (role in HOSPITAL_ROLES):
        rule = "belongs to one hospital" if role in HOSPITAL_ROLES else "belongs to no hospital"
        raise AccountError(f"hospital is {hospital!r}; a user who is {role} {rule}")


def check_password(name: str, password: str) -> None:
    """Refuse a password that is too short, too long or the user name.

    Raises:
        AccountError: Says what is allowed; never the password.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise AccountError(
            f"password has {len(password)} characters; allowed: {SHORTEST_PASSWORD} to "
            f"{LONGEST_PASSWORD}"
        )
    if plain(password) == name:
        raise AccountError("password is the user name; choose another one")


def normal(password: str) -> bytes:
    """Return the same bytes whichever way a keyboard composes an accent."""
    return unicodedata.normalize("NFKC", password).encode(errors="surrogatepass")
