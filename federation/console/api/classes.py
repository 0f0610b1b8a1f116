"""``/api/v1/catalogue``: the federation's class names."""

from typing import Annotated

from fastapi import Query
from pydantic import AfterValidator, Field

from federation.catalogue.entries import Entry
from federation.catalogue.look_alikes import Suggestion
from federation.console.api.models import AnyNumber, Body, Number, Text, Word, api_router
from federation.console.class_name_actions import (
    Proposal,
    approve_class,
    merge_classes,
    propose_class,
)
from federation.console.services import Asked, Asking

router = api_router("catalogue")


class ProposeIn(Body):
    """A class name, what is known about it, and whether it is surely none of those that look alike."""

    name: Word
    code_system: Word = ""
    code: Word = ""
    synonyms: Annotated[list[Word], Field(max_length=20, default_factory=list)]
    text: Text = ""
    confirmed: bool = False


class MergeIn(Body):
    """Into which class, and why."""

    into_id: AnyNumber
    reason: Text


def _plain(text: str) -> str:
    return text.replace("\0", "")


Sought = Annotated[str, Query(max_length=200), AfterValidator(_plain)]


@router.get("/catalogue")
def list_classes(services: Asked, merged: bool = False) -> list[Entry]:
    """List all classes by name, with or without those that were merged into others."""
    return services.catalogue.entries(merged)


@router.post("/catalogue")
def propose(services: Asked, visitor: Asking, body: ProposeIn) -> Entry:
    """Propose a class, or find it if it is known; look-alikes are answered with 409 and the list of them until ``confirmed``."""
    proposal = Proposal(
        body.code_system, body.code, tuple(body.synonyms), body.text, body.confirmed
    )
    return propose_class(services, visitor, body.name, proposal)


@router.get("/catalogue/suggestions")
def suggest(
    services: Asked, name: Sought, code_system: Sought = "", code: Sought = ""
) -> list[Suggestion]:
    """Return classes that may be the same as one that is about to be proposed, the likeliest first."""
    return services.catalogue.suggestions(name, code_system, code)


@router.post("/catalogue/{entry_id}/approve")
def approve(services: Asked, visitor: Asking, entry_id: Number) -> Entry:
    """Approve a class that another person proposed."""
    return approve_class(services, visitor, entry_id)


@router.post("/catalogue/{entry_id}/merge")
def merge(services: Asked, visitor: Asking, entry_id: Number, body: MergeIn) -> Entry:
    """Make all names of a class synonyms of another; returns the one that stays."""
    return merge_classes(services, visitor, entry_id, body.into_id, body.reason)
