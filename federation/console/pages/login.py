"""Signing in and out, and the choice of colours."""

from typing import Annotated

from fastapi import Form, Query, Request
from fastapi.responses import Response

from federation.console.rendering import redirect, render
from federation.console.security.guard import page_router
from federation.console.security.sessions import SignInRefused, set_theme, sign_in, sign_out
from federation.console.services import visitor_if_any

router = page_router()


@router.get("/login")
def login_page(
    request: Request, following: Annotated[str, Query(alias="next", max_length=500)] = "/"
) -> Response:
    """Ask who it is; somebody who is signed in already goes to the start."""
    if visitor_if_any(request) is not None:
        return redirect(request, "/")
    return render(request, "login.html", problem="", next=following, user="")


@router.post("/login")
def login(
    request: Request,
    user: Annotated[str, Form(max_length=200)] = "",
    password: Annotated[str, Form(max_length=1000)] = "",
    following: Annotated[str, Form(alias="next", max_length=500)] = "/",
) -> Response:
    """Let somebody in, or say the same to everybody else."""
    try:
        return sign_in(request, user, password, then=following)
    except SignInRefused as refusal:
        return render(
            request,
            "login.html",
            status=refusal.status,
            headers=refusal.headers,
            problem=refusal.message,
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
    """Remember light, dark, or as the system."""
    return set_theme(request, theme, then)
