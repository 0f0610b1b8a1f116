"""``/api/v1/users``: accounts, for operators."""

from typing import Annotated

from fastapi import Path, Response
from starlette.status import HTTP_204_NO_CONTENT

from federation.console.account_actions import add_user, disable_user, set_password
from federation.console.api.models import Body, Password, Word, api_router
from federation.console.services import Asked, Asking
from twin.review.accounts import Account
from twin.review.workflow import Role

router = api_router("users")
UserName = Annotated[str, Path(max_length=200)]


class UserIn(Body):
    """A new account; clinicians and approvers belong to a hospital, operators and auditors to none."""

    user: Word
    password: Password
    role: Role
    hospital: Word | None = None


class PasswordIn(Body):
    """A new password."""

    password: Password


@router.get("/users")
def list_users(services: Asked) -> list[Account]:
    """List all accounts by name."""
    return list(services.accounts.list())


@router.post("/users")
def add(services: Asked, visitor: Asking, body: UserIn) -> Account:
    """Make an account."""
    return add_user(services, visitor, body.user, body.password, body.role, body.hospital)


@router.post("/users/{user}/disable", status_code=HTTP_204_NO_CONTENT)
def disable(services: Asked, visitor: Asking, user: UserName) -> Response:
    """Let nobody log in with an account any more; its sessions end."""
    disable_user(services, visitor, user)
    return Response(status_code=HTTP_204_NO_CONTENT)


@router.post("/users/{user}/password", status_code=HTTP_204_NO_CONTENT)
def password(services: Asked, visitor: Asking, user: UserName, body: PasswordIn) -> Response:
    """Give an account a new password; its sessions end."""
    set_password(services, visitor, user, body.password)
    return Response(status_code=HTTP_204_NO_CONTENT)
