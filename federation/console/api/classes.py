"""``/api/v1/catalogue``: lists, proposes, approves and merges class names."""

from typing import Annotated

from fastapi import Query
from pydantic import AfterValidator

from federation.catalogue.entries import Entry
from federation.catalogue.look_alikes import Suggestion
from federation.console.api.models import (
    AnyNumber,
    Body,
    Number,
    ProposalBody,
    Text,
    Word,
    api_router,
)
from federation.console.class_name_actions import approve_class, merge_classes, propose_class
from federation.console.services import ServicesDep, VisitorDep

router = api_router("catalogue")


class ProposeIn(ProposalBody):
    """A class name with its details.

    ``confirmed`` says that it is another class than those that look alike.
    """

    name: Word


class MergeIn(Body):
    """The class that stays, and the reason."""

    into_id: AnyNumber
    reason: Text


def _without_nul(text: str) -> str:
    return text.replace("\0", "")


SearchText = Annotated[str, Query(max_length=200), AfterValidator(_without_nul)]


@router.get("/catalogue")
def list_classes(services: ServicesDep, merged: bool = False) -> list[Entry]:
    """List all classes by name, with or without those that were merged into others."""
    return services.catalogue.entries(merged)


@router.post("/catalogue")
def propose(services: ServicesDep, visitor: VisitorDep, body: ProposeIn) -> Entry:
    """Propose a class, or return it if it is known.

    If others look alike, the answer is 409 with a list of them, until ``confirmed``.
    """
    return propose_class(services, visitor, body.name, body.proposal())


@router.get("/catalogue/suggestions")
def suggest(
    services: ServicesDep, name: SearchText, code_system: SearchText = "", code: SearchText = ""
) -> list[Suggestion]:
    """Return known classes that may be the same as a new one, the likeliest first."""
    return services.catalogue.suggestions(name, code_system, code)


@router.post("/catalogue/{entry_id}/approve")
def approve(services: ServicesDep, visitor: VisitorDep, entry_id: Number) -> Entry:
    """Approve a class that another person proposed."""
    return approve_class(services, visitor, entry_id)


@router.post("/catalogue/{entry_id}/merge")
def merge(services: ServicesDep, visitor: VisitorDep, entry_id: Number, body: MergeIn) -> Entry:
    """Make all names of a class synonyms of another and return the one that stays."""
    return merge_classes(services, visitor, entry_id, body.into_id, body.reason)
