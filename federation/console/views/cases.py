"""View models of cases: the list, one case with its possible actions, and a page of its images."""

from dataclasses import dataclass

from federation.catalogue.entries import Entry
from federation.console.services import Services, Visitor
from twin.review.cases import Case, CaseImage, CaseRow, Decision, Page
from twin.review.workflow import CaseState, allowed_actions

PER_PAGE, IMAGES_PER_PAGE = 25, 60
# Actions of the system, and those on the page of the comparison.
HIDDEN_ACTIONS = frozenset({"finish_training", "fail_training", "release", "roll_back"})


@dataclass(frozen=True)
class CaseView:
    """One case.

    Args:
        case: The case.
        actions: Actions that this visitor may do now.
        decisions: Past decisions, oldest first.
        counts_by_day: (day, images that arrived), earliest first.
        known_classes: Classes that the serving model can predict.
        catalogue: Class names of the federation.
    """

    case: Case
    actions: tuple[str, ...]
    decisions: tuple[Decision, ...]
    counts_by_day: tuple[tuple[str, int], ...]
    known_classes: tuple[str, ...]
    catalogue: tuple[Entry, ...]


def case_list(
    services: Services, visitor: Visitor, state: CaseState | None = None, page: int = 1
) -> Page[CaseRow]:
    """Return a page of the cases that a visitor may see, last changed first."""
    return services.store.cases(visitor.hospital, state, page, PER_PAGE)


def case_view(services: Services, visitor: Visitor, case_id: int) -> CaseView:
    """Return one case.

    Raises:
        CaseNotFound: If there is none, or it belongs to another hospital.
    """
    case = services.store.case(visitor.hospital, case_id)
    offered = allowed_actions(case.state, visitor.role, visitor.user, case.named_by)
    return CaseView(
        case,
        tuple(name for name in offered if name not in HIDDEN_ACTIONS),
        tuple(services.store.decisions(case_id, hospital=visitor.hospital)),
        tuple(services.store.days(case_id, hospital=visitor.hospital)),
        services.registry.champion_classes(),
        tuple(services.catalogue.entries()),
    )


def case_images(
    services: Services, visitor: Visitor, case_id: int, page: int = 1, order: str = "arrived"
) -> Page[CaseImage]:
    """Return a page of a case's images.

    Raises:
        CaseNotFound: If there is none, or it belongs to another hospital.
    """
    return services.store.images(case_id, page, IMAGES_PER_PAGE, order, hospital=visitor.hospital)
