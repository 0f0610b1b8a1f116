"""What people do with the federation's class names: propose, approve, merge. Knows no request and no case."""

from dataclasses import dataclass

from federation.catalogue.class_names import CatalogueError
from federation.catalogue.entries import Entry
from federation.catalogue.look_alikes import Suggestion
from federation.console.errors import ActionRefused, NotHere
from federation.console.services import Services, Visitor


class NameSuggested(ActionRefused):
    """The catalogue has entries that may be the same class.

    Args:
        name: The one asked for.
        suggestions: The likeliest first.
    """

    def __init__(self, name: str, suggestions: list[Suggestion]) -> None:
        listed = ", ".join(f"{each.entry.name} ({each.why})" for each in suggestions)
        super().__init__(
            f"The catalogue may know {name} already: {listed}. Use one of these, or say that yours is another class."
        )
        self.name, self.suggestions = name, suggestions


@dataclass(frozen=True)
class Proposal:
    """What comes with a class name that the catalogue may not know.

    Args:
        code_system: Such as SNOMED CT; with a code or not at all.
        code: In that system.
        synonyms: What it is called besides.
        text: For people.
        confirmed: Yes, it is another class than those that look alike.
    """

    code_system: str = ""
    code: str = ""
    synonyms: tuple[str, ...] = ()
    text: str = ""
    confirmed: bool = False


def propose_class(services: Services, visitor: Visitor, name: str, proposal: Proposal) -> Entry:
    """Enter a class name into the catalogue, or find it there.

    Raises:
        CatalogueError: If the name is not allowed.
        NameSuggested: If it looks like one that is known.
    """
    entry, is_new = enter_class(services, visitor, name, proposal)
    return (
        entry
        if is_new
        else services.catalogue.propose(
            name, visitor.user, visitor.hospital, proposal.code_system, proposal.code
        )
    )


def approve_class(services: Services, visitor: Visitor, entry_id: int) -> Entry:
    """Approve a class name that another person proposed.

    Raises:
        CatalogueError: If it may not be.
    """
    _known_class(services, entry_id)
    entry = services.catalogue.approve(entry_id, visitor.user)
    services.audit.record(
        visitor.user,
        visitor.role,
        visitor.hospital,
        "catalogue.approve",
        f"class {entry_id}",
        {"name": entry.name},
    )
    return entry


def merge_classes(
    services: Services, visitor: Visitor, entry_id: int, into_id: int, reason: str
) -> Entry:
    """Make one class name a synonym of another.

    Raises:
        CatalogueError: If it may not be.
    """
    if not reason.strip():
        raise CatalogueError("the merge has no reason; say in a few words why both are one class")
    before, _ = _known_class(services, entry_id), _known_class(services, into_id)
    entry = services.catalogue.merge(entry_id, into_id, visitor.user, reason)
    details = {"name": before.name, "into": entry.name, "reason": reason.strip()}
    services.audit.record(
        visitor.user,
        visitor.role,
        visitor.hospital,
        "catalogue.merge",
        f"class {entry_id}",
        details,
    )
    return entry


def enter_class(
    services: Services, visitor: Visitor, name: str, proposal: Proposal
) -> tuple[Entry, bool]:
    """Return the entry of a class name, and whether it was made for this.

    Raises:
        CatalogueError: If the name is not allowed.
        NameSuggested: If it looks like one that is known and is not confirmed to be another.
    """
    known = services.catalogue.find(name)
    if known is not None:
        return known, False
    suggestions = services.catalogue.suggestions(name, proposal.code_system, proposal.code)
    if suggestions and not proposal.confirmed:
        raise NameSuggested(name, suggestions)
    entry = services.catalogue.propose(
        name,
        visitor.user,
        visitor.hospital,
        proposal.code_system,
        proposal.code,
        proposal.synonyms,
        proposal.text,
    )
    details = {"name": entry.name, "code_system": entry.code_system, "code": entry.code}
    services.audit.record(
        visitor.user,
        visitor.role,
        visitor.hospital,
        "catalogue.propose",
        f"class {entry.entry_id}",
        details,
    )
    return entry, True


def _known_class(services: Services, entry_id: int) -> Entry:
    found = next(
        (each for each in services.catalogue.entries(merged=True) if each.entry_id == entry_id),
        None,
    )
    if found is None:
        raise NotHere(f"The catalogue has no entry {entry_id}; choose one of its list.")
    return found
