"""How the pages say things: states, actions, roles, times, shares. Pure; the filters of the templates. Knows no request and no service.

Every state has a sign, a colour and a word, so that none depends on colour alone. Whatever is not in a table here is
shown as it is, with spaces for underscores: a new state is readable before somebody gives it a better word.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

_MINUTE, _HOUR, _DAY = 60, 3600, 86400  # seconds
_JUST_NOW = 45  # seconds
_MOST_LISTED, _LONGEST_DETAIL = 5, 200


@dataclass(frozen=True)
class Look:
    """A state as a person sees it.

    Args:
        word: What it is called.
        colour: Class of its badge.
        icon: Name of its sign in ``parts.html``.
        waits_for: Who acts next; empty where nobody has to.
    """

    word: str
    colour: str
    icon: str
    waits_for: str = ""


STATES: Final[Mapping[str, Look]] = {
    "detected": Look("Detected", "blue", "dot", "a clinician opens it"),
    "in_review": Look("In review", "blue", "eye", "a clinician names, merges or rejects it"),
    "named": Look("Named", "purple", "tag", "an approver checks the name"),
    "merged": Look("Merged", "purple", "merge", "an approver checks the merge"),
    "rejected": Look("Rejected", "grey", "cross"),
    "approved": Look("Approved", "green", "check", "training is started"),
    "training": Look("Training", "amber", "clock", "the federation trains"),
    "evaluated": Look("Evaluated", "purple", "scales", "the comparison is judged"),
    "released": Look("Released", "green", "double-check"),
    "rolled_back": Look("Rolled back", "red", "undo"),
}
JOBS: Final[Mapping[str, Look]] = {
    "waiting": Look("Waiting", "grey", "clock"),
    "running": Look("Running", "amber", "clock"),
    "done": Look("Finished", "green", "check"),
    "failed": Look("Failed", "red", "cross"),
}
LIGHTS: Final[Mapping[str, Look]] = {
    "green": Look("Passed", "green", "check"),
    "amber": Look("Near the limit", "amber", "warning"),
    "red": Look("Not passed", "red", "stop"),
}
ROLES: Final[Mapping[str, str]] = {
    "clinician": "Clinician",
    "approver": "Approver",
    "operator": "Operator",
    "auditor": "Auditor",
}
_DEEDS: Final[Mapping[str, str]] = {
    "open": "opened the case",
    "detect": "found the group",
    "name": "named it",
    "merge": "merged it into a known class",
    "reject": "rejected it",
    "reopen": "reopened it",
    "send_back": "sent it back",
    "approve": "approved it",
    "start_training": "started the training",
    "finish_training": "finished the training",
    "fail_training": "training failed",
    "release": "released the model",
    "roll_back": "rolled the model back",
}
_PATH: Final = ("detected", "in_review", "named", "approved", "training", "evaluated", "released")


@dataclass(frozen=True)
class Step:
    """One stage on a case's way, and whether it is done, here, ahead or where the case stopped."""

    word: str
    kind: str


def spaced(text: object) -> str:
    """An identifier as words: underscores become spaces, the first letter is a capital."""
    plain = str(text).replace("_", " ").strip()
    return plain[:1].upper() + plain[1:]


def capital(text: str) -> str:
    """A sentence that begins with a capital; the rest stays as it is."""
    return text[:1].upper() + text[1:]


def detail(value: object) -> str:
    """A value of the audit log's details, short enough for a table."""
    if isinstance(value, list | tuple):
        shown = ", ".join(str(each) for each in value[:_MOST_LISTED])
        return (
            f"{shown} and {len(value) - _MOST_LISTED} more"
            if len(value) > _MOST_LISTED
            else shown or "–"
        )
    text = "–" if value is None or value == "" else str(value)
    return text if len(text) <= _LONGEST_DETAIL else f"{text[: _LONGEST_DETAIL - 1]}…"


def state(value: object) -> Look:
    """How a case's state looks."""
    return STATES.get(str(value), Look(spaced(value), "grey", "dot"))


def state_word(value: object) -> str:
    """A case's state in a word."""
    return state(value).word


def job_state(value: object) -> Look:
    """How the state of a job looks."""
    return JOBS.get(str(value), Look(spaced(value), "grey", "dot"))


def light(value: object) -> Look:
    """How a traffic light looks."""
    return LIGHTS.get(str(value), Look(spaced(value), "grey", "dot"))


def role(value: object) -> str:
    """A role's name."""
    return ROLES.get(str(value), spaced(value))


def deed(action: object) -> str:
    """What somebody did, in the past tense."""
    return _DEEDS.get(str(action), spaced(action).lower())


def path_of(value: object) -> tuple[Step, ...]:
    """The way of a case, with the place where it is now.

    A rejected case ends at the review, a rolled-back one after its release.
    """
    current = str(value)
    if current == "rejected":
        return (
            *tuple(Step(STATES[each].word, "done") for each in _PATH[:2]),
            Step("Rejected", "stopped"),
        )
    names = tuple("merged" if each == "named" and current == "merged" else each for each in _PATH)
    if current == "rolled_back":
        return (
            *tuple(Step(STATES[each].word, "done") for each in names),
            Step("Rolled back", "stopped"),
        )
    here = names.index(current) if current in names else -1
    kinds = [
        "done" if index < here else "here" if index == here else "ahead"
        for index in range(len(names))
    ]
    return tuple(Step(STATES[each].word, kind) for each, kind in zip(names, kinds, strict=True))


def as_moment(value: datetime | str) -> datetime:
    """A time as an aware UTC ``datetime``, from what a store or a file holds."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def iso(value: datetime | str) -> str:
    """A time for the ``datetime`` attribute."""
    return as_moment(value).isoformat(timespec="seconds")


def at(value: datetime | str) -> str:
    """A time in full, as in "22 Nov 2026, 05:48 UTC"."""
    moment = as_moment(value)
    return f"{moment.day} {moment:%b %Y, %H:%M} UTC"


def age(value: datetime | str, now: datetime) -> str:
    """How long ago something was, in one unit."""
    seconds = (now - as_moment(value)).total_seconds()
    if seconds < _JUST_NOW:
        return "just now"
    return f"{length(seconds)} ago"


def length(seconds: float) -> str:
    """A length of time in one unit, rounded."""
    for unit, size in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def percent(share: float | None, digits: int = 0) -> str:
    """A share between 0 and 1 as percent; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def fraction(value: float | None, digits: int = 2) -> str:
    """A number with fixed digits; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """A difference with its sign; a true minus, and no sign for what rounds to nothing."""
    if value is None:
        return "–"
    rounded = round(value, digits)
    if rounded == 0:
        return f"{0:.{digits}f}"
    return f"{'+' if rounded > 0 else '−'}{abs(rounded):.{digits}f}"


def count(value: int) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def plural(value: int, one: str, many: str = "") -> str:
    """A count with its noun."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "state": state,
    "state_word": state_word,
    "path_of": path_of,
    "job_state": job_state,
    "light": light,
    "role": role,
    "deed": deed,
    "spaced": spaced,
    "capital": capital,
    "detail": detail,
    "iso": iso,
    "at": at,
    "age": age,
    "length_of_time": length,
    "percent": percent,
    "fraction": fraction,
    "signed": signed,
    "thousands": count,
    "plural": plural,
}
