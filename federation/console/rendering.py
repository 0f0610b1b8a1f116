"""Rendering of Jinja2 templates into pages, redirects with a flash message, and links of a pager.

Templates escape everything and fail on undefined names. A flash message travels in a signed cookie:
it needs no store, and nobody else can forge one.
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

from federation.console.security.cookies import (
    ANONYMOUS,
    FLASH,
    THEME,
    cookie_name,
    delete_cookie,
    set_cookie,
)
from federation.console.security.csrf import seal, token_for_page, unseal
from federation.console.services import get_services, optional_visitor
from twin.review.cases import Page

TEMPLATES = Path(__file__).parent / "templates"
_LONGEST_FLASH = 600  # characters; a cookie holds 4,096 bytes
_FLASH_SECONDS = 60

PageNumber = Annotated[int, Query(ge=1, le=1_000_000, description="Number of the page, from 1.")]


@dataclass(frozen=True)
class Flash:
    """One sentence about the last action, shown once."""

    kind: Literal["done", "problem"]
    text: str


@dataclass(frozen=True)
class PageLinks:
    """Addresses of the neighbours of a page in a long list; None where there is no such page."""

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
    """Return the Jinja2 environment of all pages."""
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
        request: The request that it answers.
        template: Name of a file in ``templates``.
        status: HTTP status.
        headers: Further headers.
        context: Variables of the template. Each template also gets visitor, csrf_token, theme,
            flashes, path, federation_name, status and now.
    """
    services = get_services(request)
    visitor = optional_visitor(request)
    flashes = _read_flashes(request)
    token, anonymous = token_for_page(request, services, visitor)
    common = {
        "visitor": visitor,
        "csrf_token": token,
        "theme": _theme(request),
        "flashes": flashes,
        "path": request.url.path,
        "federation_name": services.settings.federation_name,
        "status": status,
        "now": services.clock(),
    }
    environment: jinja2.Environment = request.app.state.templates
    text = environment.get_template(template).render({**common, **context})
    response = HTMLResponse(text, status, dict(headers or {}))
    if anonymous is not None:
        set_cookie(response, services.settings, ANONYMOUS, anonymous)
    if flashes:
        delete_cookie(response, services.settings, FLASH)
    return response


def redirect(
    request: Request, to: str, flash: str = "", kind: Literal["done", "problem"] = "done"
) -> RedirectResponse:
    """Return a 303 to a page of the console, with a flash message for it to show."""
    services = get_services(request)
    response = RedirectResponse(to, 303)
    if flash:
        plain = json.dumps(asdict(Flash(kind, flash[:_LONGEST_FLASH]))).encode()
        value = seal(services.secret, "flash", base64.urlsafe_b64encode(plain).decode())
        set_cookie(response, services.settings, FLASH, value, seconds=_FLASH_SECONDS)
    return response


def page_links(page: Page[Any], request: Request, path: str = "") -> PageLinks:
    """Return the links of a pager, with the other query parameters unchanged.

    Args:
        page: The page that is shown.
        request: The request that it answers.
        path: Path of the links; empty: that of the request. Give one if the page may answer a
            form, whose own address cannot be opened with GET.
    """
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


def _theme(request: Request) -> str:
    value = request.cookies.get(cookie_name(get_services(request).settings, THEME), "auto")
    return value if value in ("light", "dark") else "auto"


def _read_flashes(request: Request) -> list[Flash]:
    services = get_services(request)
    sealed = request.cookies.get(cookie_name(services.settings, FLASH), "")
    value = unseal(services.secret, "flash", sealed)
    return [] if value is None else [Flash(**json.loads(base64.urlsafe_b64decode(value)))]
