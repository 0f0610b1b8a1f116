"""The page of the user's own account."""

from fastapi import Request
from fastapi.responses import Response

from federation.console.account_actions import change_own_password
from federation.console.errors import ActionRefused
from federation.console.pages.forms import Password
from federation.console.rendering import redirect, render
from federation.console.security.guard import page_router
from federation.console.services import ServicesDep, VisitorDep
from twin.review.account_rules import AccountError

router = page_router()


@router.get("/account")
def account(request: Request) -> Response:
    """Show the account."""
    return render(request, "account.html", problem="")


@router.post("/account/password")
def password(
    request: Request,
    services: ServicesDep,
    visitor: VisitorDep,
    old: Password = "",
    new: Password = "",
) -> Response:
    """Change the password and end all sessions of the user, this one too."""
    try:
        change_own_password(services, visitor, old, new)
    except (ActionRefused, AccountError) as error:
        return render(request, "account.html", status=409, problem=str(error))
    return redirect(request, "/login", flash="Your password is changed. Sign in with the new one.")
