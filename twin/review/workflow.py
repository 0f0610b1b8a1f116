"""Workflow of a case as a pure state machine: who may do what, and what follows.

detected -> in review -> named | merged | rejected -> approved -> training -> evaluated -> released
-> rolled back

Who named a case's class (or merged it into a known one) may neither approve nor release it. Until
release every step has a way back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

LONGEST_REASON = 2000  # characters
LONGEST_CLASS_NAME = 100  # characters
REJECT_REASONS = ("noise", "artefact", "other")


class WorkflowError(ValueError):
    """Something that may not be done to a case now, or not so."""


class NotAllowed(WorkflowError):  # noqa: N818  # says what happened, as HTTP does
    """Something that others may do to the case now, but not this person."""


class CaseState(StrEnum):
    """Where a case stands."""

    DETECTED = "detected"
    IN_REVIEW = "in_review"
    NAMED = "named"
    MERGED = "merged"
    REJECTED = "rejected"
    APPROVED = "approved"
    TRAINING = "training"
    EVALUATED = "evaluated"
    RELEASED = "released"
    ROLLED_BACK = "rolled_back"


class Role(StrEnum):
    """What somebody is to the console. ``SYSTEM`` is the program itself and never a person's."""

    CLINICIAN = "clinician"
    APPROVER = "approver"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    SYSTEM = "system"


@dataclass(frozen=True)
class Actor:
    """Who does something.

    Args:
        user: Name of the account.
        role: As what.
    """

    user: str
    role: Role


SYSTEM = Actor("system", Role.SYSTEM)


@dataclass(frozen=True)
class Action:
    """One step of a case.

    Args:
        name: Its name.
        sources: States in which it can be taken.
        target: State to which it leads.
        roles: Who may take it.
        needs_reason: The reason is compulsory.
        needs_class: It comes with a class name.
        second_person: Not for the one who named or merged.
    """

    name: str
    sources: frozenset[CaseState]
    target: CaseState
    roles: frozenset[Role]
    needs_reason: bool = False
    needs_class: bool = False
    second_person: bool = False


_S, _R = CaseState, Role
_UNDECIDED = frozenset({_S.IN_REVIEW, _S.NAMED, _S.MERGED})
_PROPOSED = frozenset({_S.NAMED, _S.MERGED})
_CLINICIANS, _APPROVERS, _SYSTEM = (
    frozenset({_R.CLINICIAN}),
    frozenset({_R.APPROVER}),
    frozenset({_R.SYSTEM}),
)
_HOSPITAL, _RELEASERS = _CLINICIANS | _APPROVERS, frozenset({_R.APPROVER, _R.OPERATOR})
_REOPENED = frozenset({_S.REJECTED, _S.NAMED, _S.MERGED, _S.APPROVED, _S.EVALUATED})

ACTIONS: Mapping[str, Action] = {
    action.name: action
    for action in (
        Action("open", frozenset({_S.DETECTED}), _S.IN_REVIEW, _CLINICIANS),
        Action("name", _UNDECIDED, _S.NAMED, _CLINICIANS, needs_class=True),
        Action("merge", _UNDECIDED, _S.MERGED, _CLINICIANS, needs_class=True),
        Action("reject", _UNDECIDED | {_S.DETECTED}, _S.REJECTED, _HOSPITAL, needs_reason=True),
        Action("send_back", _PROPOSED, _S.IN_REVIEW, _APPROVERS, needs_reason=True),
        Action("approve", _PROPOSED, _S.APPROVED, _APPROVERS, second_person=True),
        Action("reopen", _REOPENED, _S.IN_REVIEW, _HOSPITAL, needs_reason=True),
        Action("start_training", frozenset({_S.APPROVED}), _S.TRAINING, _RELEASERS | _SYSTEM),
        Action("finish_training", frozenset({_S.TRAINING}), _S.EVALUATED, _SYSTEM),
        Action("fail_training", frozenset({_S.TRAINING}), _S.APPROVED, _SYSTEM),
        Action("release", frozenset({_S.EVALUATED}), _S.RELEASED, _RELEASERS, second_person=True),
        Action(
            "roll_back", frozenset({_S.RELEASED}), _S.ROLLED_BACK, _RELEASERS, needs_reason=True
        ),
    )
}

CLOSED = frozenset(
    {_S.REJECTED, _S.RELEASED, _S.ROLLED_BACK}
)  # their images may be in another case
UNNAMED = frozenset({_S.DETECTED, _S.IN_REVIEW, _S.REJECTED})  # in these a case has no class name
SELECTABLE = frozenset(
    {_S.DETECTED, _S.IN_REVIEW}
)  # in these its images may change: later ones would bypass the second person


def allowed_actions(state: CaseState, role: Role, actor: str, named_by: str | None) -> list[str]:
    """Return what a page may offer somebody.

    Args:
        state: Where the case stands.
        role: The reader's.
        actor: The reader's user name.
        named_by: Who named the case's class.
    """
    return [
        name
        for name, action in ACTIONS.items()
        if _may(action, state, Actor(actor, role), named_by)
    ]


def apply(
    action: str, case_state: CaseState, actor: Actor, named_by: str | None, reason: str = ""
) -> CaseState:
    """Return the state to which an action leads.

    Args:
        action: Its name.
        case_state: Where the case stands.
        actor: Who wants it.
        named_by: Who named the case's class.
        reason: Why; compulsory for some actions. That of ``reject`` begins with one of
            ``REJECT_REASONS``.

    Raises:
        NotAllowed: If this person may not take it; says what they may.
        WorkflowError: If nobody may now, or not without a reason.
    """
    if action not in ACTIONS:
        raise WorkflowError(f"action is {action!r}; known: {', '.join(ACTIONS)}")
    step, allowed = ACTIONS[action], allowed_actions(case_state, actor.role, actor.user, named_by)
    if step.name not in allowed:
        kind = NotAllowed if case_state in step.sources else WorkflowError
        raise kind(
            f"{actor.role} {actor.user} asks to {action} a case that is {case_state}: "
            f"{_objection(step, case_state, actor, named_by)}; "
            f"allowed for them now: {', '.join(allowed) or 'nothing'}"
        )
    check_reason(step, reason)
    return step.target


def check_reason(step: Action, reason: str) -> None:
    """Refuse a reason that is missing, endless or not of the kind that the action asks for.

    Raises:
        WorkflowError: Says what is asked for.
    """
    if len(reason) > LONGEST_REASON:
        raise WorkflowError(f"reason has {len(reason)} characters; allowed: up to {LONGEST_REASON}")
    if not all(letter.isprintable() or letter in "\r\n\t" for letter in reason):
        raise WorkflowError(
            "reason has characters that cannot be shown; allowed: printable ones, tabs and new "
            "lines"
        )
    if step.needs_reason and not reason.strip():
        raise WorkflowError(f"{step.name} has no reason; say in a few words why")
    if step.name == "reject":
        kind, _, text = (part.strip() for part in reason.partition(":"))
        if kind not in REJECT_REASONS or (kind == "other" and not text):
            raise WorkflowError(
                f"reason of reject is {reason[:60]!r}; allowed: 'noise', 'artefact', each with ': "
                "text' if you like, or 'other: text'"
            )


def check_class_name(step: Action, class_name: str | None) -> str | None:
    """Return the class name that an action comes with, with single spaces.

    None where it needs none.

    Raises:
        WorkflowError: If it is missing, out of place, endless or not printable.
    """
    name = (class_name or "").strip()
    if bool(name) != step.needs_class:
        wanted = "needs a class name" if step.needs_class else "takes no class name"
        raise WorkflowError(f"{step.name} {wanted}; got {class_name!r}")
    if not step.needs_class:
        return None
    if len(name) > LONGEST_CLASS_NAME or not name.isprintable():
        raise WorkflowError(
            f"class name is {name[:60]!r}; allowed: up to {LONGEST_CLASS_NAME} printable characters"
        )
    return " ".join(name.split())


def check_selection(state: CaseState, actor: Actor) -> None:
    """Refuse to change which of a case's images count.

    Raises:
        NotAllowed: If it is not a clinician.
        WorkflowError: If the case is past that; says when it is allowed.
    """
    if state not in SELECTABLE or actor.role is not Role.CLINICIAN:
        kind = NotAllowed if state in SELECTABLE else WorkflowError
        raise kind(
            f"{actor.role} {actor.user} asks to select images of a case that is {state}; allowed: "
            "a clinician, while it is "
            f"{' or '.join(sorted(SELECTABLE))}; a named case has to be reopened or sent back first"
        )


def _may(step: Action, state: CaseState, actor: Actor, named_by: str | None) -> bool:
    return (
        state in step.sources
        and actor.role in step.roles
        and not (step.second_person and not _second(actor.user, named_by))
    )


def _second(user: str, named_by: str | None) -> bool:
    return named_by is not None and user.strip().casefold() != named_by.strip().casefold()


def _objection(step: Action, state: CaseState, actor: Actor, named_by: str | None) -> str:
    if state not in step.sources:
        return f"possible only where it is {', '.join(sorted(step.sources))}"
    if actor.role not in step.roles:
        return f"this is for {', '.join(sorted(step.roles))}"
    return f"{named_by or 'nobody known'} named it, and a second person has to {step.name} it"
