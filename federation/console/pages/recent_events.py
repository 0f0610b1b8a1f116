"""Rows of the audit log as a stream of what happened lately, for people who do not read logs. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from federation.console.pages.wording import deed, spaced
from twin.review.audit import AuditEntry

_UNTOLD: Final = frozenset({"login", "logout", "case.select"})  # too many, and no news
_WORDS: Final = {
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
class Happening:
    """Something that happened: who, what, to what, where and when."""

    at: str
    actor: str
    words: str
    subject: str
    href: str
    hospital: str | None


def happenings(
    entries: Iterable[AuditEntry], opens_cases: bool, most: int = 12
) -> tuple[Happening, ...]:
    """Return what is worth telling, in the order given; what is said again and again is said once.

    Args:
        entries: Rows of the log.
        opens_cases: Whether the reader may open cases.
        most: How many at most.
    """
    told: list[Happening] = []
    for entry in entries:
        if entry.what not in _UNTOLD:
            happening = _happening(entry, opens_cases)
            if not told or replace(happening, at=told[-1].at) != told[-1]:
                told.append(happening)
    return tuple(told[:most])


def _happening(entry: AuditEntry, opens_cases: bool) -> Happening:
    kind, _, number = entry.subject.partition(" ")
    name = str(entry.details.get("name") or entry.details.get("class_name") or "")
    subject, href = entry.subject, ""
    if kind == "case":
        subject, href = (
            (f"case {number}: {name}" if name else entry.subject),
            (f"/cases/{number}" if opens_cases else ""),
        )
    elif kind == "training":
        subject, href = "a training", f"/trainings/{number}"
    elif kind == "class":
        subject, href = name or entry.subject, "/catalogue"
    elif kind == "user":
        subject = number
    what = entry.what.rpartition(".")[2]
    return Happening(
        at=entry.at,
        actor="The console" if entry.role == "system" else entry.actor,
        words=_WORDS.get(entry.what) or (deed(what) if kind == "case" else spaced(what).lower()),
        subject=subject,
        href=href,
        hospital=entry.hospital,
    )
