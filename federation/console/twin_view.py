"""A hospital's twin as its page shows it: what it reports, what the federation desires, and what happened. Holds no pixels.

The hospital's loop (``hospital_loop.py``) writes a line for each look into ``state/twin.jsonl``; this file reads the last of them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.console.services import Services
from physical.mirror import DayCount
from twin.review.workflow import CaseState

LOG_FILE = "twin.jsonl"
_MOST_LOG_BYTES = 512 * 1024
_MOST_EVENTS = 50


@dataclass(frozen=True)
class TwinEvent:
    """Something that happened to a twin: when (UTC, ISO 8601), what (``look``, ``model``, ``problem``), in words."""

    at: str
    what: str
    text: str


@dataclass(frozen=True)
class TwinView:
    """One twin.

    Args:
        hospital: Whose.
        num_images: In its mirror.
        num_named: Of these, images with a class name.
        class_counts: Class name -> images in the mirror: what it can rehearse with.
        counts_by_day: Images that came on each day, by class.
        last_arrival: Day of the last image; none without one.
        reported_version: Of the model with which it last looked at its images; none before the first look.
        reported_classes: What that model can name.
        desired_version: Of the model that serves in the federation.
        desired_classes: What that one can name.
        in_step: Reported and desired version are the same.
        last_synchronised: When it last took a model over, UTC, ISO 8601.
        last_look: When it last looked.
        entropy: (when, mean entropy of the images that it looked at then, as a fraction of ln C), oldest first.
        threshold: Above it an image looks new; none before the first look.
        num_waiting: Images that look new and wait for others like them.
        cases: Cases by state.
        quarantine: Reason -> files.
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


def twin_view(services: Services, hospital: str) -> TwinView:
    """Return a hospital's twin.

    Raises:
        KeyError: If there is no such hospital.
    """
    mirror, folders = services.mirrors[hospital], services.settings.hospital(hospital)
    counts, days = mirror.class_counts(), tuple(mirror.counts_by_day())
    log = read_log(folders.state)
    looks = [each for each in log if each["what"] == "look"]
    models = [each for each in log if each["what"] == "model"]
    current = services.registry.current()
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
    """Return what a hospital's loop wrote last, oldest first; a line that was cut is left out."""
    try:
        with (state / LOG_FILE).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - _MOST_LOG_BYTES))
            lines = stream.read().split(b"\n")
    except FileNotFoundError:
        return []
    return [each for each in map(_read_line, lines) if each is not None]


def quarantine_counts(quarantine: Path) -> dict[str, int]:
    """Return reason -> files in quarantine."""
    counts = {
        folder.name: sum(1 for _ in folder.glob("*.file"))
        for folder in sorted(quarantine.glob("*"))
        if folder.is_dir()
    }
    return {reason: count for reason, count in counts.items() if count}


def _read_line(line: bytes) -> dict[str, Any] | None:
    try:
        plain = json.loads(line)
    except json.JSONDecodeError:
        return None
    return plain if isinstance(plain, dict) and {"at", "what"} <= plain.keys() else None
