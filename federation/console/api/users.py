"""``/api/v1/users``: lists, adds and disables accounts, for operators."""

from typing import Annotated

from fastapi import Path, Response
from starlette.status import HTTP_204_NO_CONTENT

from federation.console.account_actions import add_user, disable_user, set_password
from federation.console.api.models import Body, Password, Word, api_router
from federation.console.services import ServicesDep, VisitorDep
from twin.review.accounts import Account
from twin.review.workflow import Role

router = api_router("users")
UserName = Annotated[str, Path(max_length=200)]


class UserIn(Body):
    """A new account; only clinicians and approvers belong to a hospital."""

    user: Word
    password: Password
    role: Role
    hospital: Word | None = None


class PasswordIn(Body):
    """A new password."""

    password: Password


@router.get("/users")
def list_users(services: ServicesDep) -> list[Account]:
    """List all accounts by name."""
    return list(services.accounts.list())


@router.post("/users")
def add(services: ServicesDep, visitor: VisitorDep, body: UserIn) -> Account:
    """Make an account."""
    return add_user(services, visitor, body.user, body.password, body.role, body.hospital)


@router.post("/users/{user}/disable", status_code=HTTP_204_NO_CONTENT)
def disable(services: ServicesDep, visitor: VisitorDep, user: UserName) -> Response:
    """Disable an account and end its sessions."""
    disable_user(services, visitor, user)
    return Response(status_code=HTTP_204_NO_CONTENT)


@router.post("/users/{user}/password", status_code=HTTP_204_NO_CONTENT)
def password(
    services: ServicesDep, visitor: VisitorDep, user: UserName, body: PasswordIn
) -> Response:
    """Set the password of an account and end its sessions."""
    set_password(services, visitor, user, body.password)
    return Response(status_code=HTTP_204_NO_CONTENT)
