"""State of a hospital's twin for its page: reported and desired model, images, cases and events.

``hospital_loop.py`` writes the log ``state/twin.jsonl``, one event per line; this file reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.console.files import json_lines
from federation.console.services import Services
from physical.mirror import DayCount
from twin.review.workflow import CLOSED, CaseState

LOG_FILE = "twin.jsonl"
_MOST_LOG_BYTES = 512 * 1024
_MOST_EVENTS = 50


@dataclass(frozen=True)
class TwinEvent:
    """An event of a twin: time (UTC, ISO 8601), kind (``look``, ``model`` ...), and text."""

    at: str
    what: str
    text: str


@dataclass(frozen=True)
class TwinView:
    """One twin.

    Args:
        hospital: Id of its hospital.
        num_images: Images in its mirror.
        num_named: Of these, images with a class name.
        class_counts: Class name -> images in the mirror.
        counts_by_day: Images that arrived on each day, by class.
        last_arrival: Day of the last image; None without one.
        reported_version: Version of the model that the twin uses; None before its first.
        reported_classes: Classes that this model can predict.
        desired_version: Version of the model that serves in the federation.
        desired_classes: Classes that the serving model can predict.
        in_step: Whether reported and desired version are the same.
        last_synchronised: When the twin last loaded a new model, UTC, ISO 8601.
        last_look: When it last triaged its images.
        entropy: (time, mean entropy of new images as a fraction of ln C), oldest first.
        threshold: Score above which an image looks new; None before the first triage.
        num_waiting: Images that look new but are too few for a case.
        cases: State -> number of cases.
        quarantine: Reason -> number of files.
        events: Newest first.
    """

    hospital: str
    num_images: int
    num_named: int
    class_counts: Mapping[str, int]
    counts_by_day: tuple[DayCount, ...]
    last_arrival: str | None
    reported_version: str | None
    reported_classes: tuple[str, ...]
    desired_version: str | None
    desired_classes: tuple[str, ...]
    in_step: bool
    last_synchronised: str | None
    last_look: str | None
    entropy: tuple[tuple[str, float], ...]
    threshold: float | None
    num_waiting: int
    cases: Mapping[CaseState, int]
    quarantine: Mapping[str, int]
    events: tuple[TwinEvent, ...]

    @property
    def num_open_cases(self) -> int:
        """Cases that wait for an action."""
        return sum(number for state, number in self.cases.items() if state not in CLOSED)

    @property
    def num_quarantined(self) -> int:
        """Files in quarantine."""
        return sum(self.quarantine.values())


def twin_view(services: Services, hospital: str) -> TwinView:
    """Return the state of a hospital's twin.

    Raises:
        KeyError: If there is no such hospital.
    """
    mirror, folders = services.mirrors[hospital], services.settings.hospital(hospital)
    counts, days = mirror.class_counts(), tuple(mirror.counts_by_day())
    log = read_log(folders.state)
    looks = [each for each in log if each["what"] == "look"]
    models = [each for each in log if each["what"] == "model"]
    current = services.registry.serving_model()
    desired = current.version if current else None
    reported = str(models[-1]["version"]) if models else None
    events = [
        TwinEvent(each["at"], each["what"], each["text"])
        for each in reversed(log)
        if each.get("text")
    ]
    last: Mapping[str, Any] = looks[-1] if looks else {}
    return TwinView(
        hospital,
        len(mirror),
        sum(counts.values()),
        counts,
        days,
        days[-1].day if days else None,
        reported,
        tuple(models[-1]["class_names"]) if models else (),
        desired,
        services.registry.champion_classes(),
        reported == desired,
        models[-1]["at"] if models else None,
        last.get("at"),
        tuple(
            (each["at"], float(each["entropy"]))
            for each in looks
            if each.get("entropy") is not None
        ),
        last.get("threshold"),
        int(last.get("num_waiting", 0)),
        services.store.counts(hospital),
        quarantine_counts(folders.quarantine),
        tuple(events[:_MOST_EVENTS]),
    )


def read_log(state: Path) -> list[dict[str, Any]]:
    """Return the last events in a twin's log, oldest first."""
    try:
        with (state / LOG_FILE).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - _MOST_LOG_BYTES))
            lines = json_lines(stream.read())
    except FileNotFoundError:
        return []
    return [each for each in lines if {"at", "what"} <= each.keys()]


def quarantine_counts(quarantine: Path) -> dict[str, int]:
    """Return reason -> number of files in quarantine."""
    counts = {
        folder.name: sum(1 for _ in folder.glob("*.file"))
        for folder in sorted(quarantine.glob("*"))
        if folder.is_dir()
    }
    return {reason: count for reason, count in counts.items() if count}
