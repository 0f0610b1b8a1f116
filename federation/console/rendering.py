"""Turns a template and values into a page, and says one thing after a redirect. Knows no case and no service but the app's.

Templates are Jinja2 with autoescaping of everything and no undefined names. A flash travels in a signed cookie, so that it needs no store
and cannot be forged into words of somebody else.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import jinja2
from fastapi import Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from federation.console.security.cookies import FLASH, THEME, cookie_name, drop_cookie, put_cookie
from federation.console.security.csrf import seal, token_for_page, unseal
from federation.console.services import Services, visitor_if_any
from twin.review.cases import Page

TEMPLATES = Path(__file__).parent / "templates"
_LONGEST_FLASH = 600  # characters; a cookie holds 4,096 bytes
_FLASH_SECONDS = 60

PageNumber = Annotated[int, Query(ge=1, le=1_000_000, description="Number of the page, from 1.")]


@dataclass(frozen=True)
class Flash:
    """One sentence about what just happened."""

    kind: Literal["done", "problem"]
    text: str


@dataclass(frozen=True)
class PageLinks:
    """Where one can go from a page of a list; no address where there is nothing."""

    number: int
    last: int
    total: int
    first_href: str | None
    previous_href: str | None
    next_href: str | None
    last_href: str | None


def make_environment(
    filters: Mapping[str, Callable[..., Any]], folder: Path = TEMPLATES
) -> jinja2.Environment:
    """Return the environment of all pages."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment


def render(
    request: Request,
    template: str,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **context: Any,
) -> HTMLResponse:
    """Return a page.

    Args:
        request: What it answers.
        template: A file in ``templates``.
        status: Of the answer.
        headers: Further ones.
        context: Values of the template, beside visitor, csrf_token, theme, flashes, path, federation_name and status.
    """
    services: Services = request.app.state.services
    visitor = visitor_if_any(request)
    flashes = _read_flashes(request, services.secret)
    token, new_cookie = token_for_page(request, services, visitor)
    common = {
        "visitor": visitor,
        "csrf_token": token,
        "theme": _theme(request, services),
        "flashes": flashes,
        "path": request.url.path,
        "federation_name": services.settings.federation_name,
        "status": status,
    }
    environment: jinja2.Environment = request.app.state.templates
    text = environment.get_template(template).render({**common, **context})
    response = HTMLResponse(text, status, dict(headers or {}))
    if new_cookie is not None:
        put_cookie(response, services.settings, new_cookie.name, new_cookie.value)
    if flashes:
        drop_cookie(response, services.settings, FLASH)
    return response


def redirect(
    request: Request, to: str, flash: str = "", kind: Literal["done", "problem"] = "done"
) -> RedirectResponse:
    """Return a 303 to a page of ours, with one sentence for it to show."""
    services: Services = request.app.state.services
    response = RedirectResponse(to, 303)
    if flash:
        plain = json.dumps(asdict(Flash(kind, flash[:_LONGEST_FLASH]))).encode()
        value = seal(services.secret, "flash", base64.urlsafe_b64encode(plain).decode())
        put_cookie(response, services.settings, FLASH, value, seconds=_FLASH_SECONDS)
    return response


def page_links(page: Page[Any], request: Request, path: str = "") -> PageLinks:
    """Return the neighbours of a page; the rest of the query stays, and the path where none is given: a form's own cannot be opened."""
    last = page.num_pages

    def href(number: int) -> str | None:
        if not 1 <= number <= last or number == page.page:
            return None
        query = [
            (name, value) for name, value in request.query_params.multi_items() if name != "page"
        ]
        return f"{path or request.url.path}?{urlencode([*query, ('page', str(number))])}"

    around = (href(1), href(page.page - 1), href(page.page + 1), href(last))
    return PageLinks(page.page, last, page.total, *around)


def _theme(request: Request, services: Services) -> str:
    value = request.cookies.get(cookie_name(services.settings, THEME), "auto")
    return value if value in ("light", "dark") else "auto"


def _read_flashes(request: Request, secret: bytes) -> list[Flash]:
    services: Services = request.app.state.services
    sealed = request.cookies.get(cookie_name(services.settings, FLASH), "")
    value = unseal(secret, "flash", sealed)
    if value is None:
        return []
    plain = json.loads(base64.urlsafe_b64decode(value))
    return [Flash(plain["kind"], plain["text"])]
