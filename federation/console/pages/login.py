"""The login page, logout, and the choice of light or dark pages."""

from typing import Annotated

from fastapi import Form, Query, Request
from fastapi.responses import Response

from federation.console.rendering import redirect, render
from federation.console.security.guard import page_router
from federation.console.security.sessions import LoginRefused, set_theme, sign_in, sign_out
from federation.console.services import optional_visitor

router = page_router()


@router.get("/login")
def login_page(
    request: Request, following: Annotated[str, Query(alias="next", max_length=500)] = "/"
) -> Response:
    """Show the login form, or redirect home a user who is logged in."""
    if optional_visitor(request) is not None:
        return redirect(request, "/")
    return render(request, "login.html", problem="", next=following, user="")


@router.post("/login")
def login(
    request: Request,
    user: Annotated[str, Form(max_length=200)] = "",
    password: Annotated[str, Form(max_length=1000)] = "",
    following: Annotated[str, Form(alias="next", max_length=500)] = "/",
) -> Response:
    """Log a user in, or show the form again with the same message for every wrong login."""
    try:
        return sign_in(request, user, password, then=following)
    except LoginRefused as refusal:
        return render(
            request,
            "login.html",
            status=refusal.status_code,
            headers=refusal.headers,
            problem=refusal.detail,
            next=following,
            user=user,
        )


@router.post("/logout")
def logout(request: Request) -> Response:
    """End the session."""
    return sign_out(request)


@router.post("/theme")
def theme(
    request: Request,
    theme: Annotated[str, Form(max_length=10)] = "auto",
    then: Annotated[str, Form(max_length=500)] = "/",
) -> Response:
    """Set the theme: light, dark, or as the system."""
    return set_theme(request, theme, then)
