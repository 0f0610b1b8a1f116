"""Recent events for the home page: rows of the audit log in plain words."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from federation.console.pages.wording import past_tense, spaced
from twin.review.audit import AuditEntry

_HIDDEN: Final = frozenset({"login", "logout", "case.select"})  # too frequent to be news
_VERBS: Final = {
    "case.detect": "found a new group:",
    "case.add_images": "added images to",
    "case.open": "opened",
    "case.name": "named",
    "case.merge": "merged",
    "case.reject": "rejected",
    "case.reopen": "reopened",
    "case.send_back": "sent back",
    "case.approve": "approved",
    "case.start_training": "started to train",
    "case.finish_training": "finished training",
    "case.fail_training": "could not train",
    "case.release": "released the model of",
    "case.roll_back": "rolled back the model of",
    "catalogue.propose": "proposed the name",
    "catalogue.approve": "approved the name",
    "catalogue.merge": "merged the name",
    "model.release": "asked for the release of",
    "model.roll_back": "asked for the roll-back of",
    "account.add": "added",
    "account.disable": "disabled",
    "intake.upload": "uploaded images:",
}


@dataclass(frozen=True)
class RecentEvent:
    """An event: when, who, what, to what, and where."""

    at: str
    actor: str
    verb: str
    subject: str
    href: str
    hospital: str | None


def recent_events(
    entries: Iterable[AuditEntry], opens_cases: bool, most: int = 12
) -> tuple[RecentEvent, ...]:
    """Return the events worth showing, in the same order; repeated ones are shown once.

    Args:
        entries: Rows of the log.
        opens_cases: Whether the visitor may open cases.
        most: Most events.
    """
    events: list[RecentEvent] = []
    for entry in entries:
        if entry.what not in _HIDDEN:
            event = _event(entry, opens_cases)
            if not events or replace(event, at=events[-1].at) != events[-1]:
                events.append(event)
    return tuple(events[:most])


def _event(entry: AuditEntry, opens_cases: bool) -> RecentEvent:
    kind, _, number = entry.subject.partition(" ")
    name = str(entry.details.get("name") or entry.details.get("class_name") or "")
    subject, href = entry.subject, ""
    if kind == "case":
        subject = f"case {number}: {name}" if name else entry.subject
        href = f"/cases/{number}" if opens_cases else ""
    elif kind == "training":
        subject, href = "a training", f"/trainings/{number}"
    elif kind == "class":
        subject, href = name or entry.subject, "/catalogue"
    elif kind == "user":
        subject = number
    action = entry.what.rpartition(".")[2]
    usual = past_tense(action) if kind == "case" else spaced(action).lower()
    return RecentEvent(
        at=entry.at,
        actor="The console" if entry.role == "system" else entry.actor,
        verb=_VERBS.get(entry.what) or usual,
        subject=subject,
        href=href,
        hospital=entry.hospital,
    )
