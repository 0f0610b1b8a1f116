"""The page of the class catalogue: search, proposals, approvals, merges."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Form, Query, Request
from fastapi.responses import Response

from federation.catalogue.class_catalogue import ClassCatalogue
from federation.catalogue.class_names import CatalogueError
from federation.catalogue.entries import Entry
from federation.catalogue.look_alikes import Suggestion
from federation.console.class_name_actions import (
    NameSuggested,
    approve_class,
    merge_classes,
    propose_class,
)
from federation.console.errors import ActionRefused
from federation.console.pages.forms import (
    LARGEST,
    ClassNameForm,
    Number,
    SuggestedName,
    Text,
    suggested_names,
)
from federation.console.rendering import redirect, render
from federation.console.roles import DECIDERS, HOSPITAL_STAFF
from federation.console.security.guard import page_router
from federation.console.services import Services, ServicesDep, Visitor, VisitorDep

router = page_router()


@dataclass(frozen=True)
class ProposedName:
    """A proposed name that waits for a decision.

    Args:
        entry: The name.
        offers: Names that look alike.
        others: Names into which it can be merged, the likeliest first.
        may_approve: Whether this visitor may approve it.
    """

    entry: Entry
    offers: tuple[Suggestion, ...]
    others: tuple[Entry, ...]
    may_approve: bool


@router.get("/catalogue")
def catalogue(
    request: Request,
    services: ServicesDep,
    visitor: VisitorDep,
    q: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    """Show the names that fit a search."""
    return _show(request, services, visitor, query=q.strip())


@router.post("/catalogue")
def propose(
    request: Request,
    services: ServicesDep,
    visitor: VisitorDep,
    form: Annotated[ClassNameForm, Depends()],
    name: Text = "",
) -> Response:
    """Propose a name; names that look alike are offered first."""
    form = replace(form, class_name=name)
    try:
        entry = propose_class(services, visitor, name, form.proposal)
    except NameSuggested as found:
        offers = suggested_names(found.suggestions)
        return _show(request, services, visitor, status=409, offers=offers, form=form)
    except (CatalogueError, ActionRefused) as error:
        return _show(request, services, visitor, status=409, problem=str(error), form=form)
    return redirect(request, "/catalogue", flash=f"“{entry.name}” is in the catalogue.")


@router.post("/catalogue/{entry_id}/approve")
def approve(
    request: Request, services: ServicesDep, visitor: VisitorDep, entry_id: Number
) -> Response:
    """Approve a proposed name."""
    try:
        entry = approve_class(services, visitor, entry_id)
    except (CatalogueError, ActionRefused) as error:
        return _show(request, services, visitor, status=409, problem=str(error))
    return redirect(request, "/catalogue", flash=f"“{entry.name}” is approved.")


@router.post("/catalogue/{entry_id}/merge")
def merge(
    request: Request,
    services: ServicesDep,
    visitor: VisitorDep,
    entry_id: Number,
    into_id: Annotated[int, Form(ge=1, le=LARGEST)],
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
    offers: Sequence[SuggestedName] = (),
    form: ClassNameForm | None = None,
) -> Response:
    entries = services.catalogue.entries()
    return render(
        request,
        "catalogue.html",
        status=status,
        entries=[entry for entry in entries if _matches(entry, query)],
        proposed=[
            _proposed_name(services.catalogue, entry, entries, visitor.user)
            for entry in entries
            if entry.state == "proposed"
        ],
        query=query,
        may_propose=visitor.role in HOSPITAL_STAFF,
        may_decide=visitor.role in DECIDERS,
        problem=problem,
        offers=offers,
        draft=form or ClassNameForm(),
    )


def _proposed_name(
    catalogue: ClassCatalogue, entry: Entry, entries: Sequence[Entry], user: str
) -> ProposedName:
    offers = tuple(
        each
        for each in catalogue.suggestions(entry.name, entry.code_system, entry.code)
        if each.entry.entry_id != entry.entry_id
    )
    similar = {each.entry.entry_id for each in offers}
    others = [
        each for each in entries if each.entry_id != entry.entry_id and each.state != "merged"
    ]
    others.sort(key=lambda each: (each.entry_id not in similar, each.name.casefold()))
    may_approve = entry.proposed_by.casefold() != user.casefold()
    return ProposedName(entry, offers, tuple(others), may_approve)


def _matches(entry: Entry, query: str) -> bool:
    wanted = query.casefold()
    return any(wanted in text.casefold() for text in (entry.name, entry.code, *entry.synonyms))
