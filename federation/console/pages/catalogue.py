"""The federation's class names: search, proposals, approvals, merges."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Form, Path, Query, Request
from fastapi.responses import Response

from federation.catalogue.class_catalogue import ClassCatalogue
from federation.catalogue.class_names import CatalogueError
from federation.catalogue.entries import Entry
from federation.catalogue.look_alikes import Suggestion
from federation.console.class_name_actions import (
    NameSuggested,
    Proposal,
    approve_class,
    merge_classes,
    propose_class,
)
from federation.console.errors import ActionRefused
from federation.console.pages.decision_panel import Draft, Offer
from federation.console.rendering import redirect, render
from federation.console.roles import DECIDERS, HOSPITAL_STAFF
from federation.console.security.guard import page_router
from federation.console.services import Asked, Asking, Services, Visitor

router = page_router()
_LARGEST = 2**62  # what a database still takes for a number
Number = Annotated[int, Path(ge=1, le=_LARGEST)]
Text = Annotated[str, Form(max_length=4000)]


@dataclass(frozen=True)
class Proposed:
    """A proposed name with what it may be the same as.

    Args:
        entry: The name.
        offers: Names that look alike.
        others: Names into which it can be merged, the likeliest first.
        may_approve: Whether this reader may approve it.
    """

    entry: Entry
    offers: tuple[Suggestion, ...]
    others: tuple[Entry, ...]
    may_approve: bool


@router.get("/catalogue")
def catalogue(
    request: Request,
    services: Asked,
    visitor: Asking,
    q: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    """Show the names."""
    return _show(request, services, visitor, query=q.strip())


@router.post("/catalogue")
def propose(
    request: Request,
    services: Asked,
    visitor: Asking,
    name: Text = "",
    code_system: Text = "",
    code: Text = "",
    synonyms: Text = "",
    text: Text = "",
    confirmed: Annotated[bool, Form()] = False,
) -> Response:
    """Propose a name; look-alikes are offered first."""
    draft = Draft(name, code_system, code, synonyms, text)
    words = tuple(line.strip() for line in synonyms.splitlines() if line.strip())
    try:
        entry = propose_class(
            services,
            visitor,
            name,
            Proposal(code_system.strip(), code.strip(), words, text.strip(), confirmed),
        )
    except NameSuggested as found:
        offers = tuple(
            Offer(
                each.entry.name,
                f"{each.entry.code_system} {each.entry.code}".strip(),
                each.why,
                "name",
            )
            for each in found.suggestions
        )
        return _show(request, services, visitor, status=409, offers=offers, draft=draft)
    except (CatalogueError, ActionRefused) as error:
        return _show(request, services, visitor, status=409, problem=str(error), draft=draft)
    return redirect(request, "/catalogue", flash=f"“{entry.name}” is in the catalogue.")


@router.post("/catalogue/{entry_id}/approve")
def approve(request: Request, services: Asked, visitor: Asking, entry_id: Number) -> Response:
    """Approve a proposed name."""
    try:
        entry = approve_class(services, visitor, entry_id)
    except (CatalogueError, ActionRefused) as error:
        return _show(request, services, visitor, status=409, problem=str(error))
    return redirect(request, "/catalogue", flash=f"“{entry.name}” is approved.")


@router.post("/catalogue/{entry_id}/merge")
def merge(
    request: Request,
    services: Asked,
    visitor: Asking,
    entry_id: Number,
    into_id: Annotated[int, Form(ge=1, le=_LARGEST)],
    reason: Text = "",
) -> Response:
    """Make one name a synonym of another."""
    try:
        entry = merge_classes(services, visitor, entry_id, into_id, reason)
    except (CatalogueError, ActionRefused) as error:
        return _show(request, services, visitor, status=409, problem=str(error))
    return redirect(request, "/catalogue", flash=f"Both are called “{entry.name}” now.")


def _show(
    request: Request,
    services: Services,
    visitor: Visitor,
    status: int = 200,
    query: str = "",
    problem: str = "",
    offers: Sequence[Offer] = (),
    draft: Draft | None = None,
) -> Response:
    entries = services.catalogue.entries()
    may_decide = visitor.role in DECIDERS
    return render(
        request,
        "catalogue.html",
        status=status,
        entries=[entry for entry in entries if _fits(entry, query)],
        proposed=[
            _proposed(services.catalogue, entry, entries, visitor.user)
            for entry in entries
            if entry.state == "proposed"
        ],
        query=query,
        may_propose=visitor.role in HOSPITAL_STAFF,
        may_decide=may_decide,
        problem=problem,
        offers=offers,
        draft=draft or Draft(),
        now=services.clock(),
    )


def _proposed(
    catalogue: ClassCatalogue, entry: Entry, entries: Sequence[Entry], user: str
) -> Proposed:
    offers = tuple(
        each
        for each in catalogue.suggestions(entry.name, entry.code_system, entry.code)
        if each.entry.entry_id != entry.entry_id
    )
    alike = [each.entry.entry_id for each in offers]
    others = [
        each for each in entries if each.entry_id != entry.entry_id and each.state != "merged"
    ]
    others.sort(key=lambda each: (each.entry_id not in alike, each.name.casefold()))
    return Proposed(entry, offers, tuple(others), entry.proposed_by.casefold() != user.casefold())


def _fits(entry: Entry, query: str) -> bool:
    wanted = query.casefold()
    return any(wanted in text.casefold() for text in (entry.name, entry.code, *entry.synonyms))
