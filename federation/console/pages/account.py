"""One's own account."""

from typing import Annotated

from fastapi import Form, Request
from fastapi.responses import Response

from federation.console.account_actions import change_own_password
from federation.console.errors import ActionRefused
from federation.console.rendering import redirect, render
from federation.console.security.guard import page_router
from federation.console.services import Asked, Asking
from twin.review.account_rules import AccountError

router = page_router()
Password = Annotated[str, Form(max_length=1000)]


@router.get("/account")
def account(request: Request) -> Response:
    """Show it."""
    return render(request, "account.html", problem="")


@router.post("/account/password")
def password(
    request: Request, services: Asked, visitor: Asking, old: Password = "", new: Password = ""
) -> Response:
    """Change the password; every session ends, this one too."""
    try:
        change_own_password(services, visitor, old, new)
    except (ActionRefused, AccountError) as error:
        return render(request, "account.html", status=409, problem=str(error))
    return redirect(request, "/login", flash="Your password is changed. Sign in with the new one.")
