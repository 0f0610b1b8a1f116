"""The page of all accounts, with the operator's forms."""

from typing import Annotated

from fastapi import Form, Request
from fastapi.responses import Response

from federation.console.account_actions import add_user, disable_user, set_password
from federation.console.errors import ActionRefused
from federation.console.pages.forms import Password
from federation.console.rendering import redirect, render
from federation.console.security.guard import page_router
from federation.console.services import Services, ServicesDep, VisitorDep
from twin.review.account_rules import ACCOUNT_ROLES, AccountError
from twin.review.workflow import Role

router = page_router()


@router.get("/users")
def users(request: Request, services: ServicesDep) -> Response:
    """Show all accounts."""
    return _show(request, services)


@router.post("/users")
def add(
    request: Request,
    services: ServicesDep,
    visitor: VisitorDep,
    role: Annotated[Role, Form()],
    user: Annotated[str, Form(max_length=200)] = "",
    password: Password = "",
    hospital: Annotated[str, Form(max_length=60)] = "",
) -> Response:
    """Add an account."""
    try:
        account = add_user(services, visitor, user, password, role, hospital or None)
    except (AccountError, ActionRefused) as error:
        return _show(request, services, 409, str(error))
    return redirect(request, "/users", flash=f"{account.user} was added.")


@router.post("/users/{user}/disable")
def disable(request: Request, services: ServicesDep, visitor: VisitorDep, user: str) -> Response:
    """Disable an account."""
    try:
        disable_user(services, visitor, user)
    except (AccountError, ActionRefused) as error:
        return _show(request, services, 409, str(error))
    return redirect(request, "/users", flash=f"{user} cannot sign in any more.")


@router.post("/users/{user}/password")
def password(
    request: Request, services: ServicesDep, visitor: VisitorDep, user: str, password: Password = ""
) -> Response:
    """Set the password of an account."""
    try:
        set_password(services, visitor, user, password)
    except (AccountError, ActionRefused) as error:
        return _show(request, services, 409, str(error))
    return redirect(request, "/users", flash=f"{user} has a new password.")


def _show(request: Request, services: Services, status: int = 200, problem: str = "") -> Response:
    return render(
        request,
        "users.html",
        status=status,
        accounts=services.accounts.list(),
        roles=sorted(ACCOUNT_ROLES),
        hospitals=services.settings.hospitals,
        problem=problem,
    )
