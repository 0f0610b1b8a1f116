"""Actions on accounts, for pages and API: add, disable, and change passwords."""

from federation.console.errors import ActionRefused, NotFound
from federation.console.services import Services, Visitor
from twin.review.accounts import Account
from twin.review.workflow import Role


def add_user(
    services: Services, visitor: Visitor, user: str, password: str, role: Role, hospital: str | None
) -> Account:
    """Make an account.

    Raises:
        AccountError: If name, password, role and hospital do not fit.
        ActionRefused: If there is no such hospital.
    """
    if hospital is not None and hospital not in services.settings.hospitals:
        raise ActionRefused(
            f"There is no hospital {hospital[:40]!r}; "
            f"there are: {', '.join(services.settings.hospitals)}."
        )
    return services.accounts.add(user, password, role, hospital, by=visitor.actor)


def disable_user(services: Services, visitor: Visitor, user: str) -> None:
    """Disable an account, so that nobody can log in with it.

    Raises:
        NotFound: If there is no such account.
        ActionRefused: If it is the visitor's own.
    """
    name = _known_user(services, user)
    if name == visitor.user:
        raise ActionRefused("You cannot disable your own account; ask another operator.")
    services.accounts.disable(name, by=visitor.actor)


def set_password(services: Services, visitor: Visitor, user: str, password: str) -> None:
    """Set the password of an account and end its sessions.

    Raises:
        NotFound: If there is no such account.
        AccountError: If the password is too weak.
    """
    services.accounts.set_password(_known_user(services, user), password, by=visitor.actor)


def change_own_password(services: Services, visitor: Visitor, old: str, new: str) -> None:
    """Change the visitor's own password and end all their sessions.

    Raises:
        ActionRefused: If the old one is wrong.
        AccountError: If the new one is too weak.
    """
    if services.accounts.check(visitor.user, old) is None:
        raise ActionRefused(
            "The present password is wrong, or was wrong too often; wait a little and try again."
        )
    services.accounts.set_password(visitor.user, new, by=visitor.actor)


def _known_user(services: Services, user: str) -> str:
    name = user.strip().lower()
    if name not in {each.user for each in services.accounts.list()}:
        raise NotFound(f"There is no account {user[:64]!r}; choose one from the list.")
    return name
