"""Actions on cases and candidates, the same for pages and API.

They apply the rules of workflow, catalogue and job queue. An action that is not possible raises an
error with a sentence for users and changes nothing.
"""

from dataclasses import dataclass

from federation.catalogue.entries import Entry
from federation.console.class_name_actions import (
    NameSuggested,
    Proposal,
    approve_class,
    enter_class,
)
from federation.console.errors import ActionRefused, NotForRole
from federation.console.job_queue import Job, Kind
from federation.console.release_checks import DECISIONS, check_decision, version_of
from federation.console.services import Services, Visitor
from federation.console.training_jobs import start_training
from federation.console.views.cases import HIDDEN_ACTIONS
from federation.console.views.trainings import read_comparison
from twin.review.cases import Case
from twin.review.workflow import ACTIONS, CaseState, Role, WorkflowError, apply

CASE_ACTIONS = tuple(name for name in ACTIONS if name not in HIDDEN_ACTIONS)


@dataclass(frozen=True)
class ActionResult:
    """The result of an action.

    Args:
        message: One sentence for the user.
        case: The case in its present state, if the action was about one.
        job: The job that was started, if any.
    """

    message: str
    case: Case | None = None
    job: Job | None = None


def act_on_case(
    services: Services,
    visitor: Visitor,
    case_id: int,
    action: str,
    *,
    reason: str = "",
    class_name: str = "",
    proposal: Proposal | None = None,
    revision: int | None = None,
) -> ActionResult:
    """Do one step of the workflow with a case.

    Args:
        services: Services of the app.
        visitor: Who does it.
        case_id: A case of the visitor's hospital.
        action: One of ``CASE_ACTIONS``.
        reason: The visitor's reason.
        class_name: For ``name`` and ``merge``.
        proposal: Details of a new name.
        revision: Revision of the case that the visitor saw.

    Raises:
        CaseNotFound: If there is no such case, or it belongs to another hospital.
        Conflict: If the case has changed since the visitor saw it.
        WorkflowError: If the workflow does not allow it now, or not to this person.
        CatalogueError: If the name is not allowed.
        NameSuggested: If the name looks like a known one.
        ActionRefused: If it is not possible for another reason.
    """
    case, proposal = services.store.case(visitor.hospital, case_id), proposal or Proposal()
    if action not in CASE_ACTIONS:
        raise ActionRefused(
            f"A case has no action {action[:40]!r}; it has: {', '.join(CASE_ACTIONS)}."
        )
    if visitor.role not in ACTIONS[action].roles:
        roles = sorted(ACTIONS[action].roles - {Role.SYSTEM})
        raise NotForRole(f"{action} is for {', '.join(roles)}, not for the role {visitor.role}.")
    if action == "start_training":
        return _start_training(services, visitor, case, "is in training {job_id}.")
    if action == "reopen":
        _check_no_release(services, case)
    new: Entry | None = None
    if action in ("name", "merge"):
        # Check the workflow before anything is entered into the catalogue.
        apply(action, case.state, visitor.actor, case.named_by, reason)
        action, class_name, new = _resolve_name(services, visitor, action, class_name, proposal)
    if action == "approve":
        _check_similar_names(services, case, proposal.confirmed)
    try:
        case = services.store.act(
            case_id,
            action,
            visitor.actor,
            hospital=visitor.hospital,
            reason=reason,
            class_name=class_name or None,
            # A group that has grown meanwhile can still be opened.
            expected_revision=None if action == "open" else revision,
        )
    except ValueError:
        if new is not None:
            services.catalogue.delete_proposal(new.entry_id)
        raise
    if action == "approve":
        return _after_approval(services, visitor, case)
    return ActionResult(_state_message(case, action), case)


def select_images(
    services: Services, visitor: Visitor, case_id: int, image_ids: list[str], selected: bool
) -> Case:
    """Include images of a case in its training, or exclude them.

    Raises:
        CaseNotFound: If there is no such case, or it belongs to another hospital.
        StoreError: If an image is not in the case.
        WorkflowError: If the state of the case does not allow it.
    """
    return services.store.select(
        case_id, image_ids, selected, visitor.actor, hospital=visitor.hospital
    )


def decide_release(
    services: Services, visitor: Visitor, training_id: str, action: str, reason: str = ""
) -> ActionResult:
    """Queue the release or the roll-back of a training's candidate.

    Raises:
        JobError: If there is no such training.
        ActionRefused: If it is not possible now, not for this person, or lacks a reason.
    """
    if action not in DECISIONS:
        raise ActionRefused(
            f"A candidate has no action {action[:40]!r}; it has: {', '.join(DECISIONS)}."
        )
    kind: Kind = "release" if action == "release" else "roll_back"
    reason = reason.strip()[:2000]
    with services.jobs.locked():
        check_decision(services, visitor, training_id, action)
        verdict = read_comparison(services, training_id).get("verdict") or {}
        if not reason and kind == "roll_back":
            raise ActionRefused("A roll-back needs a reason. Say in a few words why.")
        if not reason and verdict.get("overall") == "red":
            raise ActionRefused(
                "The rules say red: a release against them needs a reason. Say in a few words why."
            )
        version = version_of(services, training_id) if kind == "roll_back" else None
        job = services.jobs.add(kind, visitor.user, visitor.role, training_id, reason, version)
    services.record(visitor, f"model.{action}", f"training {training_id}", {"reason": reason})
    word = kind.replace("_", "-")
    return ActionResult(f"The {word} is under way; it takes a few seconds.", job=job)


def _start_training(services: Services, visitor: Visitor, case: Case, message: str) -> ActionResult:
    """Start the training of an approved case; ``message`` may contain ``{job_id}``."""
    job = start_training(services.store, services.jobs, [case], visitor.actor)
    return ActionResult(
        f"Case {case.case_id} {message.format(job_id=job.job_id)}",
        services.store.case(visitor.hospital, case.case_id),
        job,
    )


def _resolve_name(
    services: Services, visitor: Visitor, action: str, class_name: str, proposal: Proposal
) -> tuple[str, str, Entry | None]:
    """Return the action and class name that were meant, and the catalogue entry if new."""
    known = services.registry.champion_classes()
    if action == "merge":
        entry = services.catalogue.find(class_name)
        name = entry.name if entry else class_name
        if name not in known:
            raise ActionRefused(
                f"The model knows no class {name[:80]!r}; "
                f"it knows: {', '.join(known) or 'none yet'}. Name the case instead."
            )
        return action, name, None
    entry, is_new = enter_class(services, visitor, class_name, proposal)
    return ("merge" if entry.name in known else "name"), entry.name, entry if is_new else None


def _check_similar_names(services: Services, case: Case, confirmed: bool) -> None:
    """Show an approver similar names, perhaps of another hospital, before the head grows.

    Raises:
        NameSuggested: If there are any and the approver has not confirmed yet.
    """
    entry = services.catalogue.find(case.class_name or "")
    if entry is None or entry.learned or confirmed or case.state is not CaseState.NAMED:
        return
    similar = [
        each
        for each in services.catalogue.suggestions(entry.name, entry.code_system, entry.code)
        if each.entry != entry
    ]
    if similar:
        raise NameSuggested(entry.name, similar)


def _check_no_release(services: Services, case: Case) -> None:
    jobs = services.jobs.find(subject=case.training_id or "-")
    if any(job.is_open for job in jobs if job.kind in DECISIONS):
        raise ActionRefused("The release of this case's model is under way. Wait until it is done.")


def _after_approval(services: Services, visitor: Visitor, case: Case) -> ActionResult:
    """Approve the class name too, and start the training where the settings say so."""
    entry = services.catalogue.find(case.class_name or "")
    if entry is not None and entry.state == "proposed" and entry.proposed_by != visitor.user:
        approve_class(services, visitor, entry.entry_id)
    approved = _state_message(case, "approve")
    if not services.settings.train_on_approval:
        return ActionResult(approved, case)
    message = "is approved, and its training begins as soon as the work before it is done."
    try:
        return _start_training(services, visitor, case, message)
    except WorkflowError as error:  # somebody else started it first: the approval stands
        return ActionResult(f"{approved} {error}", case)


def _state_message(case: Case, action: str) -> str:
    named = f" as {case.class_name}" if case.class_name and action in ("name", "merge") else ""
    return f"Case {case.case_id} is {case.state.replace('_', ' ')}{named} now."
