"""Cases as their readers see them: frozen values and their JSON form."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from twin.review.workflow import CaseState, Role

T = TypeVar("T")


@dataclass(frozen=True)
class CaseImage:
    """One image of a case.

    Args:
        image_id: In the hospital's mirror.
        entropy: Of the prediction, as a fraction of ln C in [0, 1].
        top: (class name, probability) of the likeliest classes, up to three, likeliest first.
        distance: From the centre of the group in feature space.
        arrived: When it came, UTC, ISO 8601.
        selected: It counts; a clinician may take it out.
    """

    image_id: str
    entropy: float
    top: tuple[tuple[str, float], ...]
    distance: float
    arrived: str
    selected: bool = True


@dataclass(frozen=True)
class CaseSummary:
    """What the detector found out about a group.

    Args:
        num_images: Images when it was detected.
        mean_entropy: Of these, as a fraction of ln C.
        nearest: (known class, feature similarity), nearest first.
        nearest_exemplars: Image ids of exemplars of each of these classes.
        entropy_histogram: Counts in 20 bins over [0, 1].
        usual_histogram: The hospital's usual, in the same bins.
        score_name: What decided that the images look new.
        threshold: From which value on.
        model_version: Of the model that looked.
        representative: Image ids of a few that stand for the group.
    """

    num_images: int
    mean_entropy: float
    nearest: tuple[tuple[str, float], ...]
    nearest_exemplars: Mapping[str, tuple[str, ...]]
    entropy_histogram: tuple[int, ...]
    usual_histogram: tuple[int, ...]
    score_name: str
    threshold: float
    model_version: str
    representative: tuple[str, ...]


@dataclass(frozen=True)
class CaseRow:
    """A case in a list.

    Args:
        case_id: Its number.
        hospital: Whose.
        state: Where it stands.
        revision: Rises with each change.
        opened: When it was detected, UTC, ISO 8601.
        changed: When it last changed.
        class_name: As it was named; none before.
        num_images: All of them.
        num_selected: Those that count.
        mean_entropy: When it was detected, as a fraction of ln C.
        nearest: (known class, feature similarity), nearest first.
        representative: Image ids.
    """

    case_id: int
    hospital: str
    state: CaseState
    revision: int
    opened: str
    changed: str
    class_name: str | None
    num_images: int
    num_selected: int
    mean_entropy: float
    nearest: tuple[tuple[str, float], ...]
    representative: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A group of images on which people decide; its images are asked for page by page.

    Args:
        case_id: Its number.
        hospital: Whose.
        state: Where it stands.
        revision: Rises with each change; who acts says which one they saw.
        opened: When it was detected, UTC, ISO 8601.
        changed: When it last changed.
        class_name: As it was named; none before.
        named_by: Who named or merged it.
        summary: What the detector found out.
        num_images: All of them.
        num_selected: Those that count.
        training_id: The training that it is, or was last, part of.
        candidate_version: Registered version of the model that came out of it.
        reason: Of the last act.
    """

    case_id: int
    hospital: str
    state: CaseState
    revision: int
    opened: str
    changed: str
    class_name: str | None
    named_by: str | None
    summary: CaseSummary
    num_images: int
    num_selected: int
    training_id: str | None
    candidate_version: str | None
    reason: str


@dataclass(frozen=True)
class Decision:
    """One act on a case.

    Args:
        case_id: On which.
        at: When, UTC, ISO 8601.
        user: Who.
        role: As what.
        action: What.
        from_state: Where the case stood.
        to_state: Where it stands since.
        reason: Why; may be empty.
        class_name: The case's class name since.
        revision: The case's since.
    """

    case_id: int
    at: str
    user: str
    role: Role
    action: str
    from_state: CaseState
    to_state: CaseState
    reason: str
    class_name: str | None
    revision: int


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a long list.

    Args:
        items: On this page.
        page: Its number, from 1.
        per_page: Items on a full page.
        total: Items on all pages.
    """

    items: tuple[T, ...]
    page: int
    per_page: int
    total: int

    @property
    def num_pages(self) -> int:
        """Return how many there are; an empty list has one."""
        return max(1, -(-self.total // self.per_page))


def all_pages(read: Callable[[int], Page[T]]) -> Iterator[T]:
    """Return the items of all pages, one page in memory at a time.

    Args:
        read: Given the number of a page, returns it.
    """
    number, last = 1, 1
    while number <= last:
        page = read(number)
        yield from page.items
        number, last = number + 1, page.num_pages


def summary_to_plain(summary: CaseSummary) -> dict[str, Any]:
    """Return a summary as JSON holds it; numpy's numbers become Python's."""
    return {
        "num_images": int(summary.num_images),
        "mean_entropy": float(summary.mean_entropy),
        "nearest": pairs_to_plain(summary.nearest),
        "nearest_exemplars": {name: list(ids) for name, ids in summary.nearest_exemplars.items()},
        "entropy_histogram": [int(count) for count in summary.entropy_histogram],
        "usual_histogram": [int(count) for count in summary.usual_histogram],
        "score_name": summary.score_name,
        "threshold": float(summary.threshold),
        "model_version": str(summary.model_version),
        "representative": list(summary.representative),
    }


def summary_from_plain(plain: Mapping[str, Any]) -> CaseSummary:
    """Return the summary that ``summary_to_plain`` took apart."""
    tuples = {
        "nearest": pairs_from_plain(plain["nearest"]),
        "nearest_exemplars": {name: tuple(ids) for name, ids in plain["nearest_exemplars"].items()},
        "entropy_histogram": tuple(plain["entropy_histogram"]),
        "usual_histogram": tuple(plain["usual_histogram"]),
        "representative": tuple(plain["representative"]),
    }
    return CaseSummary(**{each.name: plain[each.name] for each in fields(CaseSummary)} | tuples)


def pairs_to_plain(pairs: tuple[tuple[str, float], ...]) -> list[list[str | float]]:
    """Return (name, number) pairs as JSON holds them."""
    return [[name, float(value)] for name, value in pairs]


def pairs_from_plain(plain: list[list[Any]]) -> tuple[tuple[str, float], ...]:
    """Return what ``pairs_to_plain`` took apart."""
    return tuple((str(name), float(value)) for name, value in plain)
