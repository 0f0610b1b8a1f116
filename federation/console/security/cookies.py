"""Names and security attributes of the console's cookies."""

from typing import Final

from starlette.responses import Response

from federation.console.settings import ConsoleSettings

SESSION: Final = "fedka-session"
ANONYMOUS: Final = "fedka-anonymous"  # binds the login form to a browser without a session
FLASH: Final = "fedka-flash"
THEME: Final = "fedka-theme"


def cookie_name(settings: ConsoleSettings, name: str) -> str:
    """Return a cookie's full name; ``__Host-`` limits it to https and to this very host."""
    return f"__Host-{name}" if settings.secure_cookies else name


def set_cookie(
    response: Response, settings: ConsoleSettings, name: str, value: str, seconds: int | None = None
) -> None:
    """Set a cookie that no script can read and no other site can send.

    It lasts for ``seconds``, or until the browser is closed.
    """
    response.set_cookie(
        cookie_name(settings, name),
        value,
        max_age=seconds,
        secure=settings.secure_cookies,
        httponly=True,
        samesite="strict",
    )


def delete_cookie(response: Response, settings: ConsoleSettings, name: str) -> None:
    """Make the browser delete a cookie."""
    response.delete_cookie(
        cookie_name(settings, name),
        secure=settings.secure_cookies,
        httponly=True,
        samesite="strict",
    )
