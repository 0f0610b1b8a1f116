"""The console's HTML pages: one file per page, each with its addresses; view models beside them are pure.

What may be seen or done by whom stands in ``roles.py`` and in the workflow; what a page shows comes from ``views``.
Here it becomes words, figures and forms.
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
from federation.console.pages.wording import FILTERS as WORDS

routers: Final[tuple[APIRouter, ...]] = tuple(
    page.router
    for page in (
        login,
        home,
        account,
        cases,
        case,
        training,
        comparison,
        twin_page,
        operator,
        catalogue,
        audit,
        users,
        intake,
    )
)
FILTERS: Final[dict[str, Callable[..., Any]]] = {**WORDS, "menu": menu}
