"""What people do with cases and candidates, the same for pages and API: every rule of workflow, catalogue and queue applies here.

Knows no request. What cannot be done raises an error with a sentence for people and changes nothing.
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
from federation.console.trainings import start_training
from federation.console.views.cases import HIDDEN_ACTIONS
from federation.console.views.trainings import read_comparison
from twin.review.cases import Case
from twin.review.workflow import ACTIONS, CaseState, Role, WorkflowError, apply

CASE_ACTIONS = tuple(name for name in ACTIONS if name not in HIDDEN_ACTIONS)


@dataclass(frozen=True)
class Done:
    """What was done.

    Args:
        message: One sentence for people.
        case: As it is now, if it is about one case.
        job: What was started, if anything.
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
) -> Done:
    """Take a step with a case.

    Args:
        services: Of the app.
        visitor: Who.
        case_id: Which case, of the visitor's hospital.
        action: One of ``CASE_ACTIONS``.
        reason: Why.
        class_name: For ``name`` and ``merge``.
        proposal: What comes with a new name.
        revision: Of the case, as the visitor saw it.

    Raises:
        CaseNotFound: If there is no such case, or it is another hospital's.
        Conflict: If it changed since the visitor saw it.
        WorkflowError: If it may not be done now, or not by this person.
        CatalogueError: If the name is not allowed.
        NameSuggested: If the name looks like one that is known.
        ActionRefused: If something else speaks against it.
    """
    case, proposal = services.store.case(visitor.hospital, case_id), proposal or Proposal()
    if action not in CASE_ACTIONS:
        raise ActionRefused(
            f"A case has no action {action[:40]!r}; it has: {', '.join(CASE_ACTIONS)}."
        )
    if visitor.role not in ACTIONS[action].roles:
        raise NotForRole(
            f"{action} is for {', '.join(sorted(ACTIONS[action].roles - {Role.SYSTEM}))}, not for the role {visitor.role}."
        )
    if action == "start_training":
        job = start_training(services.store, services.jobs, [case], visitor.actor)
        return Done(
            f"Case {case_id} is in training {job.job_id}.",
            services.store.case(visitor.hospital, case_id),
            job,
        )
    if action == "reopen":
        _check_no_release(services, case)
    new: Entry | None = None
    if action in ("name", "merge"):
        apply(
            action, case.state, visitor.actor, case.named_by, reason
        )  # before anything is entered into the catalogue
        action, class_name, new = _decide_name(services, visitor, action, class_name, proposal)
    if action == "approve":
        _check_look_alikes(services, case, proposal.confirmed)
    try:
        case = services.store.act(
            case_id,
            action,
            visitor.actor,
            hospital=visitor.hospital,
            reason=reason,
            class_name=class_name or None,
            expected_revision=None
            if action == "open"
            else revision,  # a group that has grown meanwhile is opened all the same
        )
    except ValueError:
        if new is not None:
            services.catalogue.delete_proposal(new.entry_id)
        raise
    return (
        _after_approval(services, visitor, case)
        if action == "approve"
        else Done(_said(case, action), case)
    )


def select_images(
    services: Services, visitor: Visitor, case_id: int, image_ids: list[str], selected: bool
) -> Case:
    """Say that images of a case count, or do not.

    Raises:
        CaseNotFound: If there is no such case, or it is another hospital's.
        StoreError: If an image is not in it.
        WorkflowError: If it may not be done now.
    """
    return services.store.select(
        case_id, image_ids, selected, visitor.actor, hospital=visitor.hospital
    )


def decide_release(
    services: Services, visitor: Visitor, training_id: str, action: str, reason: str = ""
) -> Done:
    """Start the release or the roll-back of a training's candidate.

    Raises:
        JobError: If there is no such training.
        ActionRefused: If it may not be.
    """
    if action not in DECISIONS:
        raise ActionRefused(
            f"A candidate has no action {action[:40]!r}; it has: {', '.join(DECISIONS)}."
        )
    reason = reason.strip()[:2000]
    with services.jobs.held():
        check_decision(services, visitor, training_id, action)
        is_red = (read_comparison(services, training_id).get("verdict") or {}).get(
            "overall"
        ) == "red"
        if not reason and (action == "roll_back" or is_red):
            why = (
                "A roll-back needs a reason."
                if action == "roll_back"
                else "The rules say red: a release against them needs a reason."
            )
            raise ActionRefused(f"{why} Say in a few words why.")
        version = version_of(services, training_id) if action == "roll_back" else None
        kind: Kind = "release" if action == "release" else "roll_back"
        job = services.jobs.add(kind, visitor.user, visitor.role, training_id, reason, version)
    services.audit.record(
        visitor.user,
        visitor.role,
        visitor.hospital,
        f"model.{action}",
        f"training {training_id}",
        {"reason": reason},
    )
    word = "release" if action == "release" else "roll-back"
    return Done(f"The {word} is under way; it takes a few seconds.", job=job)


def _decide_name(
    services: Services, visitor: Visitor, action: str, class_name: str, proposal: Proposal
) -> tuple[str, str, Entry | None]:
    """Return the action that a name means, the name that stays, and the entry if it was made for this."""
    known = services.registry.champion_classes()
    if action == "merge":
        entry = services.catalogue.find(class_name)
        name = entry.name if entry else class_name
        if name not in known:
            raise ActionRefused(
                f"The model knows no class {name[:80]!r}; it knows: {', '.join(known) or 'none yet'}. Name the case instead."
            )
        return action, name, None
    entry, is_new = enter_class(services, visitor, class_name, proposal)
    return ("merge" if entry.name in known else "name"), entry.name, entry if is_new else None


def _check_look_alikes(services: Services, case: Case, confirmed: bool) -> None:
    """Before a head grows, whoever approves sees what another hospital may have called the same."""
    entry = services.catalogue.find(case.class_name or "")
    if entry is None or entry.learned or confirmed or case.state is not CaseState.NAMED:
        return
    alike = [
        each
        for each in services.catalogue.suggestions(entry.name, entry.code_system, entry.code)
        if each.entry != entry
    ]
    if alike:
        raise NameSuggested(entry.name, alike)


def _check_no_release(services: Services, case: Case) -> None:
    if any(
        job.is_open
        for job in services.jobs.jobs(subject=case.training_id or "-")
        if job.kind in DECISIONS
    ):
        raise ActionRefused("The release of this case's model is under way. Wait until it is done.")


def _after_approval(services: Services, visitor: Visitor, case: Case) -> Done:
    entry = services.catalogue.find(case.class_name or "")
    if entry is not None and entry.state == "proposed" and entry.proposed_by != visitor.user:
        approve_class(services, visitor, entry.entry_id)
    if not services.settings.train_on_approval:
        return Done(_said(case, "approve"), case)
    try:
        job = start_training(services.store, services.jobs, [case], visitor.actor)
    except WorkflowError as error:  # somebody was faster: the approval stands
        return Done(f"{_said(case, 'approve')} {error}", case)
    return Done(
        f"Case {case.case_id} is approved, and its training begins as soon as the work before it is done.",
        services.store.case(visitor.hospital, case.case_id),
        job,
    )


def _said(case: Case, action: str) -> str:
    named = f" as {case.class_name}" if case.class_name and action in ("name", "merge") else ""
    return f"Case {case.case_id} is {case.state.replace('_', ' ')}{named} now."
