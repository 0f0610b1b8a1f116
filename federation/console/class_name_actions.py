"""Actions on the federation's class names, for pages and API: propose, approve, merge."""

from dataclasses import dataclass

from federation.catalogue.class_names import CatalogueError
from federation.catalogue.entries import Entry
from federation.catalogue.look_alikes import Suggestion
from federation.console.errors import ActionRefused, NotFound
from federation.console.services import Services, Visitor


class NameSuggested(ActionRefused):
    """The catalogue already has entries that may be the same class.

    Args:
        name: The name asked for.
        suggestions: Entries that look alike, the likeliest first.
    """

    def __init__(self, name: str, suggestions: list[Suggestion]) -> None:
        listed = ", ".join(f"{each.entry.name} ({each.why})" for each in suggestions)
        super().__init__(
            f"The catalogue may know {name} already: {listed}. "
            "Use one of these, or say that yours is another class."
        )
        self.name, self.suggestions = name, suggestions


@dataclass(frozen=True)
class Proposal:
    """Details of a class name that may be new to the catalogue.

    Args:
        code_system: Such as SNOMED CT; empty if there is no code.
        code: Code in that system.
        synonyms: Further names.
        text: Description.
        confirmed: The user has confirmed that it is none of the classes that look alike.
    """

    code_system: str = ""
    code: str = ""
    synonyms: tuple[str, ...] = ()
    text: str = ""
    confirmed: bool = False


def propose_class(services: Services, visitor: Visitor, name: str, proposal: Proposal) -> Entry:
    """Enter a class name into the catalogue, or return the entry that it has.

    Raises:
        CatalogueError: If the name is not allowed.
        NameSuggested: If it looks like a known one.
    """
    entry, is_new = enter_class(services, visitor, name, proposal)
    if is_new:
        return entry
    return services.catalogue.propose(
        name, visitor.user, visitor.hospital, proposal.code_system, proposal.code
    )


def approve_class(services: Services, visitor: Visitor, entry_id: int) -> Entry:
    """Approve a class name that another person proposed.

    Raises:
        CatalogueError: If the workflow does not allow it.
    """
    _known_class(services, entry_id)
    entry = services.catalogue.approve(entry_id, visitor.user)
    services.record(visitor, "catalogue.approve", f"class {entry_id}", {"name": entry.name})
    return entry


def merge_classes(
    services: Services, visitor: Visitor, entry_id: int, into_id: int, reason: str
) -> Entry:
    """Make one class name a synonym of another.

    Raises:
        CatalogueError: If the workflow does not allow it.
    """
    if not reason.strip():
        raise CatalogueError("the merge has no reason; say in a few words why both are one class")
    before, _ = _known_class(services, entry_id), _known_class(services, into_id)
    entry = services.catalogue.merge(entry_id, into_id, visitor.user, reason)
    details = {"name": before.name, "into": entry.name, "reason": reason.strip()}
    services.record(visitor, "catalogue.merge", f"class {entry_id}", details)
    return entry


def enter_class(
    services: Services, visitor: Visitor, name: str, proposal: Proposal
) -> tuple[Entry, bool]:
    """Return the entry of a class name, and whether this call made it.

    Raises:
        CatalogueError: If the name is not allowed.
        NameSuggested: If it looks like a known one and is not confirmed to be another.
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
    services.record(visitor, "catalogue.propose", f"class {entry.entry_id}", details)
    return entry, True


def _known_class(services: Services, entry_id: int) -> Entry:
    found = next(
        (each for each in services.catalogue.entries(merged=True) if each.entry_id == entry_id),
        None,
    )
    if found is None:
        raise NotFound(f"The catalogue has no entry {entry_id}; choose one of its list.")
    return found
