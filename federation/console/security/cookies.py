"""The console's cookies: their names and their attributes, in one place. Knows not what they mean."""

from typing import Final

from starlette.responses import Response

from federation.console.settings import ConsoleSettings

SESSION: Final = "fedka-session"
ANONYMOUS: Final = (
    "fedka-anonymous"  # binds the login form to this browser before there is a session
)
FLASH: Final = "fedka-flash"
THEME: Final = "fedka-theme"


def cookie_name(settings: ConsoleSettings, name: str) -> str:
    """Return a cookie's full name: with ``__Host-`` a browser takes it over https from this very host alone."""
    return f"__Host-{name}" if settings.secure_cookies else name


def put_cookie(
    response: Response, settings: ConsoleSettings, name: str, value: str, seconds: int | None = None
) -> None:
    """Set a cookie that no script reads and no other site sends; without ``seconds`` it ends with the browser."""
    response.set_cookie(
        cookie_name(settings, name),
        value,
        max_age=seconds,
        path="/",
        secure=settings.secure_cookies,
        httponly=True,
        samesite="strict",
    )


def drop_cookie(response: Response, settings: ConsoleSettings, name: str) -> None:
    """Make the browser forget a cookie."""
    response.delete_cookie(
        cookie_name(settings, name),
        path="/",
        secure=settings.secure_cookies,
        httponly=True,
        samesite="strict",
    )
