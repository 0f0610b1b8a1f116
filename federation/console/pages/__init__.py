"""The HTML pages of the console: one file per page with its routes, and pure view models.

``roles.py`` and the workflow decide what a visitor may see and do, and ``views`` collects the data.
The pages turn it into text, figures and forms.
"""

from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter

from federation.console.pages import (
    account,
    audit,
    case,
    cases,
    catalogue,
    comparison,
    home,
    intake,
    login,
    operator,
    training,
    twin_page,
    users,
)
from federation.console.pages.menu import menu
from federation.console.pages.wording import FILTERS as WORDING

_PAGES = (login, home, account, cases, case, training, comparison, twin_page, operator, catalogue)
routers: Final[tuple[APIRouter, ...]] = tuple(
    page.router for page in (*_PAGES, audit, users, intake)
)
FILTERS: Final[dict[str, Callable[..., Any]]] = {**WORDING, "menu": menu}
