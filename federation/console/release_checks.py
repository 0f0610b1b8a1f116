"""Checks of whether a candidate may be released or rolled back, by whom, and if not, why."""

from federation.console.errors import ActionRefused, NotForRole
from federation.console.job_queue import JobError
from federation.console.services import Services, Visitor
from federation.console.training_jobs import cases_at_start
from twin.review.cases import Case
from twin.review.workflow import ACTIONS, CaseState, Role, allowed_actions

DECISIONS = ("release", "roll_back")


def release_actions(
    services: Services, visitor: Visitor, training_id: str
) -> tuple[tuple[str, ...], str]:
    """Return what a visitor may decide about a candidate and, if nothing, the reason."""
    offered, reasons = [], []
    for action in DECISIONS:
        try:
            check_decision(services, visitor, training_id, action)
        except (ActionRefused, JobError) as error:
            reasons.append(str(error))
        else:
            offered.append(action)
    if offered:
        return tuple(offered), ""
    return (), reasons[1 if _was_released(services, training_id) else 0]


def check_decision(services: Services, visitor: Visitor, training_id: str, action: str) -> None:
    """Check that a visitor may release or roll back the candidate of a training now.

    Raises:
        JobError: If there is no such training.
        ActionRefused: If it is not possible, with the reason.
    """
    job = services.jobs.get(training_id)
    if job.kind != "training" or job.state != "done":
        raise ActionRefused(
            f"Training {training_id} is {job.state}; "
            "a candidate can be released when its training is done."
        )
    cases = services.store.of_training(training_id)
    _check_person(visitor, cases, action)
    trained_on = cases_at_start(services.store, services.jobs, training_id)
    now = sorted(((case.hospital, case.case_id) for case in cases), key=lambda each: each[1])
    if [(case.hospital, case.case_id) for case in trained_on] != now:
        raise ActionRefused(
            "A case of this training was decided anew since, "
            "so its candidate is out of date. Train again."
        )
    under_way = next(
        (each for each in services.jobs.find() if each.kind in DECISIONS and each.is_open), None
    )
    if under_way is not None:
        raise ActionRefused(
            f"A {under_way.kind.replace('_', '-')} is under way. Wait until it is done."
        )
    _check_states(cases, visitor, action)
    serving = services.registry.serving_model()
    if action == "roll_back" and version_of(services, training_id) != (serving and serving.version):
        raise ActionRefused(
            "Another model serves by now; only the one that serves can be rolled back."
        )


def version_of(services: Services, training_id: str) -> str | None:
    """Return the registered version of a training's candidate; None before registration."""
    for job in services.jobs.find(subject=training_id):
        if job.kind in ("register", "release") and job.state == "done":
            version = (services.jobs.result(job.job_id) or {}).get("version")
            if version is not None:
                return str(version)
    return None


def _check_person(visitor: Visitor, cases: list[Case], action: str) -> None:
    roles = ACTIONS[action].roles
    if visitor.role not in roles:
        raise NotForRole(f"A {visitor.role} cannot do this; it is for {', '.join(sorted(roles))}.")
    if visitor.role is Role.APPROVER and visitor.hospital not in {case.hospital for case in cases}:
        raise NotForRole(
            "No case of your hospital is part of this training; "
            "its own approvers or an operator decide."
        )


def _check_states(cases: list[Case], visitor: Visitor, action: str) -> None:
    needed = CaseState.EVALUATED if action == "release" else CaseState.RELEASED
    wrong = [case for case in cases if case.state is not needed]
    if wrong or not cases:
        found = (
            f"case {wrong[0].case_id} is {wrong[0].state.replace('_', ' ')}"
            if wrong
            else "no case belongs to it any more"
        )
        raise ActionRefused(f"Not possible: {found}; needed: {needed.replace('_', ' ')}.")
    if any(
        action not in allowed_actions(case.state, visitor.role, visitor.user, case.named_by)
        for case in cases
    ):
        raise NotForRole(
            "You named a case of this training yourself; a second person has to release it."
        )


def _was_released(services: Services, training_id: str) -> bool:
    return any(
        case.state in (CaseState.RELEASED, CaseState.ROLLED_BACK)
        for case in services.store.of_training(training_id)
    )
