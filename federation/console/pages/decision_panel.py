"""View model of a case's decision panel: the possible actions, or why there are none."""

from collections.abc import Sequence
from dataclasses import dataclass

from twin.review.cases import Case
from twin.review.workflow import CaseState, Role

_CLOSED_NOTES = {
    CaseState.REJECTED: "This case was rejected; its images are not trained on.",
    CaseState.RELEASED: "The model that knows this class is serving.",
    CaseState.ROLLED_BACK: "The release was taken back; the earlier model is serving.",
}


@dataclass(frozen=True)
class Link:
    """A link to the page on which the case goes on."""

    href: str
    label: str


@dataclass(frozen=True)
class NameOption:
    """An entry in the search list of class names: the name, and its code and synonyms."""

    name: str
    hint: str


@dataclass(frozen=True)
class DecisionPanel:
    """The decision panel.

    Args:
        title: Heading.
        actions: Actions with a form.
        notes: Sentences for the visitor, such as why an action is missing.
        links: Links to other pages on which the decision is made.
        open: The action whose form is unfolded; may be empty.
        names: The search list of class names.
        known: Classes that the model can predict, the nearest first.
        nearest: The class that looks most like the case; may be empty.
    """

    title: str
    actions: tuple[str, ...]
    notes: tuple[str, ...]
    links: tuple[Link, ...]
    open: str
    names: tuple[NameOption, ...]
    known: tuple[str, ...]
    nearest: str


def make_decision_panel(
    case: Case,
    actions: Sequence[str],
    user: str,
    role: Role,
    known: Sequence[str],
    names: Sequence[NameOption] = (),
    opened: str = "",
) -> DecisionPanel:
    """Return the decision panel of a case for one visitor.

    Args:
        case: The case.
        actions: What the workflow allows the visitor.
        user: Name of the visitor.
        role: Role of the visitor.
        known: Classes that the serving model can predict.
        names: Class names of the catalogue.
        opened: The action whose form is unfolded; empty: the likeliest one.
    """
    offered = tuple(action for action in actions if action not in ("release", "roll_back"))
    nearest = next((name for name, _ in case.summary.nearest if name in known), "")
    title = "Check this name" if "approve" in offered else "Decide" if offered else "Decision"
    # Only naming forms unfold by themselves; the approve button is always above the folds.
    naming = [each for each in ("name", "merge") if each in offered]
    first = naming[0] if naming and case.state is CaseState.IN_REVIEW else ""
    return DecisionPanel(
        title=title,
        actions=offered,
        notes=tuple(_notes(case, offered, user, role)),
        links=tuple(_links(case)),
        open=opened if opened in offered else first,
        names=tuple(names),
        known=tuple(sorted(known, key=lambda name: (name != nearest, name.casefold()))),
        nearest=nearest,
    )


def _notes(case: Case, offered: Sequence[str], user: str, role: Role) -> list[str]:
    notes = []
    is_own = (
        case.named_by is not None and case.named_by.strip().casefold() == user.strip().casefold()
    )
    if case.state in (CaseState.NAMED, CaseState.MERGED) and "approve" not in offered:
        what = (
            f"named this “{case.class_name}”"
            if case.state is CaseState.NAMED
            else f"merged this into “{case.class_name}”"
        )
        if role is Role.APPROVER and is_own:
            sentence = f"You {what} yourself, so another person must approve it"
        else:
            who = "You" if is_own else case.named_by
            sentence = f"{who} {what}. It waits for an approver of {case.hospital}"
        notes.append(f"{sentence}: two people look at every new class.")
    if case.state is CaseState.DETECTED and not {"open", "reject"} & set(offered):
        notes.append(f"It waits for a clinician of {case.hospital}.")
    if case.state is CaseState.IN_REVIEW and "name" not in offered:
        notes.append(
            f"A clinician of {case.hospital} is looking at it; "
            "naming is for clinicians, checking the name for approvers."
        )
    if case.state is CaseState.APPROVED and "start_training" not in offered:
        notes.append(
            f"“{case.class_name}” is approved. An approver or the operator starts the training."
        )
    if case.state is CaseState.EVALUATED and is_own:
        notes.append("You named this class, so another person must release the model.")
    if case.state in _CLOSED_NOTES:
        notes.append(_CLOSED_NOTES[case.state])
    return notes


def _links(case: Case) -> list[Link]:
    if case.training_id is None:
        return []
    if case.state is CaseState.TRAINING:
        return [Link(f"/trainings/{case.training_id}", "Watch the training")]
    if case.state in (CaseState.EVALUATED, CaseState.RELEASED, CaseState.ROLLED_BACK):
        return [Link(f"/comparisons/{case.training_id}", "See the comparison")]
    return []
