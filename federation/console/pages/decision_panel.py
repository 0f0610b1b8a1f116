"""What a case page lets this person decide, and the reason where it lets them decide nothing. Pure; knows no request and no database."""

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
    """Where to go on."""

    href: str
    words: str


@dataclass(frozen=True)
class Name:
    """An entry of the search list of class names: the name, and what else is known of it."""

    name: str
    words: str


@dataclass(frozen=True)
class Offer:
    """A name that exists already and may mean the same.

    Args:
        name: The existing name.
        code: Its code system and code; may be empty.
        why: Why it is offered.
        action: What to do with it: "merge" if the model knows it, "name" if only the catalogue does.
    """

    name: str
    code: str
    why: str
    action: str


@dataclass(frozen=True)
class Draft:
    """What somebody typed, to be shown again when it was not taken."""

    class_name: str = ""
    code_system: str = ""
    code: str = ""
    synonyms: str = ""
    text: str = ""


@dataclass(frozen=True)
class Panel:
    """The decision panel.

    Args:
        title: Its heading.
        actions: What is offered as a form.
        notes: What is worth saying, as why something is not offered.
        links: Other pages on which the decision is made.
        open: The form that is unfolded.
        names: The search list.
        known: Classes that the model knows, the nearest first.
        nearest: The class that looks most like the group; may be empty.
    """

    title: str
    actions: tuple[str, ...]
    notes: tuple[str, ...]
    links: tuple[Link, ...]
    open: str
    names: tuple[Name, ...]
    known: tuple[str, ...]
    nearest: str


def make_panel(
    case: Case,
    actions: Sequence[str],
    user: str,
    role: Role,
    known: Sequence[str],
    names: Sequence[Name] = (),
    opened: str = "",
) -> Panel:
    """Return the panel of a case for one reader.

    Args:
        case: The case.
        actions: What the workflow allows them.
        user: Who reads.
        role: As what.
        known: Classes of the serving model.
        names: The catalogue.
        opened: The form to unfold; the likeliest one if empty.
    """
    offered = tuple(action for action in actions if action not in ("release", "roll_back"))
    nearest = next((name for name, _ in case.summary.nearest if name in known), "")
    title = "Check this name" if "approve" in offered else "Decide" if offered else "Decision"
    # A rejected-again form first would invite slips; an approver's first form is the button above the folds.
    first = next(
        (
            each
            for each in ("name", "merge")
            if each in offered and case.state is CaseState.IN_REVIEW
        ),
        "",
    )
    return Panel(
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
            notes.append(
                f"You {what} yourself, so another person must approve it: two people look at every new class."
            )
        else:
            who = "You" if is_own else case.named_by
            notes.append(
                f"{who} {what}. It waits for an approver of {case.hospital}: two people look at every new class."
            )
    if case.state is CaseState.DETECTED and not {"open", "reject"} & set(offered):
        notes.append(f"It waits for a clinician of {case.hospital}.")
    if case.state is CaseState.IN_REVIEW and "name" not in offered:
        notes.append(
            f"A clinician of {case.hospital} is looking at it; naming is for clinicians, checking the name for approvers."
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
