"""``/api/v1``: login for a bearer token, logout, the present user, and the OpenAPI document."""

from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.status import HTTP_204_NO_CONTENT

from federation.console.api.models import Body, ErrorOut, Out, Password, Word, api_router
from federation.console.security.sessions import close_session, open_session
from federation.console.services import ServicesDep, VisitorDep
from twin.review.workflow import Role

router = api_router("session")


class LoginIn(Body):
    """A name and a password."""

    user: Word
    password: Password


class MeOut(Out):
    """The user who is logged in."""

    user: str
    role: Role
    hospital: str | None


class LoginOut(MeOut):
    """A session: its token goes into the header ``Authorization: Bearer TOKEN``."""

    token: str


@router.post(
    "/login",
    responses={
        429: {"model": ErrorOut, "description": "Too many wrong passwords; see Retry-After."}
    },
)
def login(request: Request, services: ServicesDep, body: LoginIn) -> LoginOut:
    """Log in; the token is valid as long as a session in a browser."""
    token, account = open_session(request, services, body.user, body.password)
    return LoginOut(user=account.user, role=account.role, hospital=account.hospital, token=token)


@router.post("/logout", status_code=HTTP_204_NO_CONTENT)
def logout(request: Request, services: ServicesDep) -> Response:
    """End the session."""
    close_session(request, services)
    return Response(status_code=HTTP_204_NO_CONTENT)


@router.get("/me")
def me(visitor: VisitorDep) -> MeOut:
    """Return the user who is logged in."""
    return MeOut.model_validate(visitor)


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request) -> JSONResponse:
    """Return the OpenAPI document."""
    plain: dict[str, Any] = request.app.openapi()
    return JSONResponse(plain)
