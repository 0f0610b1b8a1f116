"""What people do in the console, the same for pages and for the API: every rule of the workflow, the catalogue and the queue applies here.

Knows no request. What cannot be done raises an error with a sentence for people and changes nothing.
"""

from dataclasses import dataclass

from federation.catalogue import CatalogueError, Entry, Suggestion
from federation.console.jobs import Job, Kind
from federation.console.refusals import ActionRefused, NotForRole, NotHere
from federation.console.releases import DECISIONS, check_decision, version_of
from federation.console.services import Services, Visitor
from federation.console.trainings import start_training
from federation.console.views import HIDDEN_ACTIONS, read_comparison
from twin.review.accounts import Account
from twin.review.cases import Case
from twin.review.workflow import ACTIONS, CaseState, Role, WorkflowError, apply

__all__ = ["ActionRefused", "NotForRole", "NotHere"]

CASE_ACTIONS = tuple(name for name in ACTIONS if name not in HIDDEN_ACTIONS)


class NameSuggested(ActionRefused):
    """The catalogue has entries that may be the same class.

    Args:
        name: The one asked for.
        suggestions: The likeliest first.
    """

    def __init__(self, name: str, suggestions: list[Suggestion]) -> None:
        listed = ", ".join(f"{each.entry.name} ({each.why})" for each in suggestions)
        super().__init__(f"The catalogue may know {name} already: {listed}. Use one of these, or say that yours is another class.")
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
        raise ActionRefused(f"A case has no action {action[:40]!r}; it has: {', '.join(CASE_ACTIONS)}.")
    if visitor.role not in ACTIONS[action].roles:
        raise NotForRole(f"{action} is for {', '.join(sorted(ACTIONS[action].roles - {Role.SYSTEM}))}, not for the role {visitor.role}.")
    if action == "start_training":
        job = start_training(services.store, services.jobs, [case], visitor.actor)
        return Done(f"Case {case_id} is in training {job.job_id}.", services.store.case(visitor.hospital, case_id), job)
    if action == "reopen":
        _check_no_release(services, case)
    new: Entry | None = None
    if action in ("name", "merge"):
        apply(action, case.state, visitor.actor, case.named_by, reason)  # before anything is entered into the catalogue
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
            expected_revision=None if action == "open" else revision,  # a group that has grown meanwhile is opened all the same
        )
    except ValueError:
        if new is not None:
            services.catalogue.forget(new.entry_id)
        raise
    return _after_approval(services, visitor, case) if action == "approve" else Done(_said(case, action), case)


def select_images(services: Services, visitor: Visitor, case_id: int, image_ids: list[str], selected: bool) -> Case:
    """Say that images of a case count, or do not.

    Raises:
        CaseNotFound: If there is no such case, or it is another hospital's.
        StoreError: If an image is not in it.
        WorkflowError: If it may not be done now.
    """
    return services.store.select(case_id, image_ids, selected, visitor.actor, hospital=visitor.hospital)


def decide_release(services: Services, visitor: Visitor, training_id: str, action: str, reason: str = "") -> Done:
    """Start the release or the roll-back of a training's candidate.

    Raises:
        JobError: If there is no such training.
        ActionRefused: If it may not be.
    """
    if action not in DECISIONS:
        raise ActionRefused(f"A candidate has no action {action[:40]!r}; it has: {', '.join(DECISIONS)}.")
    reason = reason.strip()[:2000]
    with services.jobs.held():
        check_decision(services, visitor, training_id, action)
        is_red = (read_comparison(services, training_id).get("verdict") or {}).get("overall") == "red"
        if not reason and (action == "roll_back" or is_red):
            why = "A roll-back needs a reason." if action == "roll_back" else "The rules say red: a release against them needs a reason."
            raise ActionRefused(f"{why} Say in a few words why.")
        version = version_of(services, training_id) if action == "roll_back" else None
        kind: Kind = "release" if action == "release" else "roll_back"
        job = services.jobs.add(kind, visitor.user, visitor.role, training_id, reason, version)
    services.audit.record(visitor.user, visitor.role, visitor.hospital, f"model.{action}", f"training {training_id}", {"reason": reason})
    word = "release" if action == "release" else "roll-back"
    return Done(f"The {word} is under way; it takes a few seconds.", job=job)


def propose_class(services: Services, visitor: Visitor, name: str, proposal: Proposal) -> Entry:
    """Enter a class name into the catalogue, or find it there.

    Raises:
        CatalogueError: If the name is not allowed.
        NameSuggested: If it looks like one that is known.
    """
    entry, is_new = _enter(services, visitor, name, proposal)
    return entry if is_new else services.catalogue.propose(name, visitor.user, visitor.hospital, proposal.code_system, proposal.code)


def approve_class(services: Services, visitor: Visitor, entry_id: int) -> Entry:
    """Approve a class name that another person proposed.

    Raises:
        CatalogueError: If it may not be.
    """
    _known_class(services, entry_id)
    entry = services.catalogue.approve(entry_id, visitor.user)
    services.audit.record(visitor.user, visitor.role, visitor.hospital, "catalogue.approve", f"class {entry_id}", {"name": entry.name})
    return entry


def merge_classes(services: Services, visitor: Visitor, entry_id: int, into_id: int, reason: str) -> Entry:
    """Make one class name a synonym of another.

    Raises:
        CatalogueError: If it may not be.
    """
    if not reason.strip():
        raise CatalogueError("the merge has no reason; say in a few words why both are one class")
    before, _ = _known_class(services, entry_id), _known_class(services, into_id)
    entry = services.catalogue.merge(entry_id, into_id, visitor.user, reason)
    details = {"name": before.name, "into": entry.name, "reason": reason.strip()}
    services.audit.record(visitor.user, visitor.role, visitor.hospital, "catalogue.merge", f"class {entry_id}", details)
    return entry


def add_user(services: Services, visitor: Visitor, user: str, password: str, role: Role, hospital: str | None) -> Account:
    """Make an account.

    Raises:
        AccountError: If name, password, role and hospital do not fit.
        ActionRefused: If there is no such hospital.
    """
    if hospital is not None and hospital not in services.settings.hospitals:
        raise ActionRefused(f"There is no hospital {hospital[:40]!r}; there are: {', '.join(services.settings.hospitals)}.")
    return services.accounts.add(user, password, role, hospital, by=visitor.actor)


def disable_user(services: Services, visitor: Visitor, user: str) -> None:
    """Let nobody log in with an account.

    Raises:
        NotHere: If there is none.
        ActionRefused: If it is the visitor's own.
    """
    name = _known_user(services, user)
    if name == visitor.user:
        raise ActionRefused("You cannot disable your own account; ask another operator.")
    services.accounts.disable(name, by=visitor.actor)


def set_password(services: Services, visitor: Visitor, user: str, password: str) -> None:
    """Give an account a new password; its sessions end.

    Raises:
        NotHere: If there is none.
        AccountError: If the password is too weak.
    """
    services.accounts.set_password(_known_user(services, user), password, by=visitor.actor)


def change_own_password(services: Services, visitor: Visitor, old: str, new: str) -> None:
    """Change the visitor's own password; all of the visitor's sessions end.

    Raises:
        ActionRefused: If the old one is wrong.
        AccountError: If the new one is too weak.
    """
    if services.accounts.check(visitor.user, old) is None:
        raise ActionRefused("The present password is wrong, or was wrong too often; wait a little and try again.")
    services.accounts.set_password(visitor.user, new, by=visitor.actor)


def _known_class(services: Services, entry_id: int) -> Entry:
    found = next((each for each in services.catalogue.entries(merged=True) if each.entry_id == entry_id), None)
    if found is None:
        raise NotHere(f"The catalogue has no entry {entry_id}; choose one of its list.")
    return found


def _known_user(services: Services, user: str) -> str:
    name = user.strip().lower()
    if name not in {each.user for each in services.accounts.list()}:
        raise NotHere(f"There is no account {user[:64]!r}; choose one of the list.")
    return name


def _decide_name(services: Services, visitor: Visitor, action: str, class_name: str, proposal: Proposal) -> tuple[str, str, Entry | None]:
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
    entry, is_new = _enter(services, visitor, class_name, proposal)
    return ("merge" if entry.name in known else "name"), entry.name, entry if is_new else None


def _enter(services: Services, visitor: Visitor, name: str, proposal: Proposal) -> tuple[Entry, bool]:
    known = services.catalogue.find(name)
    if known is not None:
        return known, False
    suggestions = services.catalogue.suggestions(name, proposal.code_system, proposal.code)
    if suggestions and not proposal.confirmed:
        raise NameSuggested(name, suggestions)
    entry = services.catalogue.propose(
        name, visitor.user, visitor.hospital, proposal.code_system, proposal.code, proposal.synonyms, proposal.text
    )
    details = {"name": entry.name, "code_system": entry.code_system, "code": entry.code}
    services.audit.record(visitor.user, visitor.role, visitor.hospital, "catalogue.propose", f"class {entry.entry_id}", details)
    return entry, True


def _check_look_alikes(services: Services, case: Case, confirmed: bool) -> None:
    """Before a head grows, whoever approves sees what another hospital may have called the same."""
    entry = services.catalogue.find(case.class_name or "")
    if entry is None or entry.learned or confirmed or case.state is not CaseState.NAMED:
        return
    alike = [each for each in services.catalogue.suggestions(entry.name, entry.code_system, entry.code) if each.entry != entry]
    if alike:
        raise NameSuggested(entry.name, alike)


def _check_no_release(services: Services, case: Case) -> None:
    if any(job.is_open for job in services.jobs.jobs(subject=case.training_id or "-") if job.kind in DECISIONS):
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
