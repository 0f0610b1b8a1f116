"""Template filters: labels of states, actions and roles; times, counts and percentages as text.

Every state has an icon, a colour and a word, so that none depends on colour alone. A value without
a label here is shown as it is, with spaces for underscores.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

_UNITS = (("d", 86400), ("h", 3600), ("min", 60))  # seconds
_JUST_NOW = 45  # seconds
_MOST_LISTED, _LONGEST_DETAIL = 5, 200


@dataclass(frozen=True)
class StatusBadge:
    """The badge of a state.

    Args:
        word: Label.
        colour: CSS class.
        icon: Name of an icon in ``parts.html``.
        waits_for: The next action; empty if there is none.
    """

    word: str
    colour: str
    icon: str
    waits_for: str = ""


STATES: Final[Mapping[str, StatusBadge]] = {
    "detected": StatusBadge("Detected", "blue", "dot", "a clinician opens it"),
    "in_review": StatusBadge("In review", "blue", "eye", "a clinician names, merges or rejects it"),
    "named": StatusBadge("Named", "purple", "tag", "an approver checks the name"),
    "merged": StatusBadge("Merged", "purple", "merge", "an approver checks the merge"),
    "rejected": StatusBadge("Rejected", "grey", "cross"),
    "approved": StatusBadge("Approved", "green", "check", "training is started"),
    "training": StatusBadge("Training", "amber", "clock", "the federation trains"),
    "evaluated": StatusBadge("Evaluated", "purple", "scales", "the comparison is judged"),
    "released": StatusBadge("Released", "green", "double-check"),
    "rolled_back": StatusBadge("Rolled back", "red", "undo"),
}
JOBS: Final[Mapping[str, StatusBadge]] = {
    "waiting": StatusBadge("Waiting", "grey", "clock"),
    "running": StatusBadge("Running", "amber", "clock"),
    "done": StatusBadge("Finished", "green", "check"),
    "failed": StatusBadge("Failed", "red", "cross"),
}
LIGHTS: Final[Mapping[str, StatusBadge]] = {
    "green": StatusBadge("Passed", "green", "check"),
    "amber": StatusBadge("Near the limit", "amber", "warning"),
    "red": StatusBadge("Not passed", "red", "stop"),
}
_PAST_TENSE: Final[Mapping[str, str]] = {
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
_JOB_KINDS: Final[Mapping[str, str]] = {
    "register": "Registration",
    "roll_back": "Roll-back",
}
_PATH: Final = ("detected", "in_review", "named", "approved", "training", "evaluated", "released")


@dataclass(frozen=True)
class Step:
    """One stage of a case; ``kind`` is ``done``, ``here``, ``ahead`` or ``stopped``."""

    word: str
    kind: str


def spaced(text: object) -> str:
    """Return an identifier as words, with a capital first letter."""
    return capital(str(text).replace("_", " ").strip())


def capital(text: str) -> str:
    """Return a sentence with a capital first letter; the rest stays as it is."""
    return text[:1].upper() + text[1:]


def detail(value: object) -> str:
    """Return a value of the audit log's details, short enough for a table."""
    if isinstance(value, list | tuple):
        shown = ", ".join(str(each) for each in value[:_MOST_LISTED])
        more = len(value) - _MOST_LISTED
        return f"{shown} and {more} more" if more > 0 else shown or "–"
    text = "–" if value is None or value == "" else str(value)
    return text if len(text) <= _LONGEST_DETAIL else f"{text[: _LONGEST_DETAIL - 1]}…"


def _badge(badges: Mapping[str, StatusBadge], value: object) -> StatusBadge:
    return badges.get(str(value), StatusBadge(spaced(value), "grey", "dot"))


def state(value: object) -> StatusBadge:
    """Return the badge of a case's state."""
    return _badge(STATES, value)


def state_word(value: object) -> str:
    """Return the label of a case's state."""
    return state(value).word


def job_state(value: object) -> StatusBadge:
    """Return the badge of a job's state."""
    return _badge(JOBS, value)


def job_kind(kind: object) -> str:
    """Return the label of a job's kind."""
    return _JOB_KINDS.get(str(kind), spaced(kind))


def training_title(class_names: Sequence[str]) -> str:
    """Return the title of a training, made of the classes that it teaches."""
    *others, last = sorted(set(class_names)) or [""]
    listed = f"{', '.join(others)} and {last}" if others else last
    return f"Training of {listed}" if listed else "Training"


def light(value: object) -> StatusBadge:
    """Return the badge of a traffic light."""
    return _badge(LIGHTS, value)


def past_tense(action: object) -> str:
    """Return what somebody did in an action."""
    return _PAST_TENSE.get(str(action), spaced(action).lower())


def case_path(value: object) -> tuple[Step, ...]:
    """Return the stages of a case in a state.

    The path of a rejected case ends after the review, that of a rolled-back one after its release.
    """
    current = str(value)
    names = ["merged" if each == "named" and current == "merged" else each for each in _PATH]
    if current in ("rejected", "rolled_back"):
        done = names[:2] if current == "rejected" else names
        return (
            *(Step(STATES[each].word, "done") for each in done),
            Step(STATES[current].word, "stopped"),
        )
    here = names.index(current) if current in names else -1
    kinds = [
        "done" if index < here else "here" if index == here else "ahead"
        for index in range(len(names))
    ]
    return tuple(Step(STATES[each].word, kind) for each, kind in zip(names, kinds, strict=True))


def as_utc(value: datetime | str) -> datetime:
    """Return a time, perhaps in ISO 8601 and without a zone, as an aware UTC ``datetime``."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def iso(value: datetime | str) -> str:
    """Return a time for the ``datetime`` attribute."""
    return as_utc(value).isoformat(timespec="seconds")


def full_time(value: datetime | str) -> str:
    """Return a time in full, such as "22 Nov 2026, 05:48 UTC"."""
    moment = as_utc(value)
    return f"{moment.day} {moment:%b %Y, %H:%M} UTC"


def time_ago(value: datetime | str, now: datetime) -> str:
    """Return how long ago a time was, in one unit."""
    seconds = (now - as_utc(value)).total_seconds()
    return "just now" if seconds < _JUST_NOW else f"{length_of_time(seconds)} ago"


def length_of_time(seconds: float) -> str:
    """Return a duration in one unit, rounded."""
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share in [0, 1] as percent; a dash for None."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def fraction(value: float | None, digits: int = 2) -> str:
    """Return a number with fixed digits; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """Return a difference with its sign, and no sign if it rounds to 0; a dash for None."""
    if value is None:
        return "–"
    rounded = round(value, digits)
    sign = "+" if rounded > 0 else "−" if rounded < 0 else ""
    return f"{sign}{abs(rounded):.{digits}f}"


def thousands(value: int) -> str:
    """Return a whole number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def plural(value: int, one: str, many: str = "") -> str:
    """Return a count with its noun."""
    return f"{thousands(value)} {one if value == 1 else many or one + 's'}"


_FUNCTIONS: Final[tuple[Callable[..., Any], ...]] = (
    *(state, state_word, case_path, job_state, job_kind, training_title, light, past_tense),
    *(spaced, capital, detail, iso, full_time, time_ago, length_of_time),
    *(percent, fraction, signed, thousands, plural),
)
FILTERS: Final[dict[str, Callable[..., Any]]] = {each.__name__: each for each in _FUNCTIONS}
