"""Event feed and status file of a deployment.

``activity.jsonl`` is the feed, one event a line with its sentence; ``status.json`` is the last word
on everything, written whole. Both are read by ``fedka status`` and by the health and metrics
endpoints, which run in another process. Knows no transport.
"""

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Clock = Callable[[], datetime]
FEED, STATUS = "activity.jsonl", "status.json"
_MOST_BYTES = 20_000_000  # of the feed; then it is begun anew and the last one kept beside it


def utc_now() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)


class Activity:
    """Writes the feed and the status of one server.

    Args:
        folder: Of both files.
        clock: Gives the time.
    """

    def __init__(self, folder: Path, clock: Clock = utc_now) -> None:
        self._folder, self._clock = folder, clock
        folder.mkdir(parents=True, exist_ok=True)
        self.status: dict[str, Any] = read_status(folder)

    def tell(self, event: Mapping[str, Any]) -> None:
        """Add an event to the feed and to where things stand."""
        at = self._clock().isoformat(timespec="seconds")
        self.status = {**stand(self.status, event), "updated": at}
        self._append({"at": at, **event, "text": sentence(event)})
        write_atomically(self._folder / STATUS, json.dumps(self.status, indent=1))

    def _append(self, event: Mapping[str, Any]) -> None:
        feed = self._folder / FEED
        if feed.exists() and feed.stat().st_size > _MOST_BYTES:
            feed.replace(feed.with_suffix(".old.jsonl"))
        with feed.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(event, allow_nan=False) + "\n")


def stand(status: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, Any]:
    """Return where things stand after an event: a pure function of both."""
    new = dict(status)
    hospitals = {name: dict(each) for name, each in new.get("hospitals", {}).items()}
    match event["event"]:
        case "state":
            new |= {"state": event["state"], "reason": event.get("reason", "")}
            new |= {
                name: event[name]
                for name in ("run_id", "experiment", "num_rounds", "minimum_hospitals")
                if name in event
            }
            hospitals |= {
                name: {"state": "expected", **hospitals.get(name, {})}
                for name in event.get("hospitals", ())
            }
        case "hello":
            hospitals.setdefault(event["hospital"], {}).update(state="present", reason="")
        case "round":
            new |= {
                "round": event["round"],
                "bytes_up": event["bytes_up"],
                "bytes_down": event["bytes_down"],
            }
        case "absent":
            state = "suspect" if event["suspect"] else "faulty"
            hospitals.setdefault(event["hospital"], {}).update(
                state=state,
                reason=event["reason"],
                stage=event["stage"],
                absent_round=event["round"],
            )
        case "observe" | "train":
            new["stage"] = event["event"]
            for name in event["answered"]:
                each = hospitals.setdefault(name, {})
                each["last_round"] = event["round"]
                if (
                    each.get("state") != "faulty" or each.get("stage") == event["event"]
                ):  # who cannot train is not well because it looks
                    each |= {"state": "present", "reason": ""}
        case "aggregated":
            new |= {
                name: event[name]
                for name in ("rounds_done", "accuracy", "num_classes", "seconds", "rejected")
            }
    new["hospitals"] = hospitals
    return new


def sentence(event: Mapping[str, Any]) -> str:
    """Return an event in words."""
    match event["event"]:
        case "state":
            return f"{event['state']}{': ' + event['reason'] if event.get('reason') else ''}"
        case "hello":
            last = event["last_round"]
            return f"{event['hospital']} is here; " + (
                f"its twin's last round is {last}" if last >= 0 else "its twin begins anew"
            )
        case "version":
            return (
                f"{event['hospital']} runs another version: fedka {event['code_version'][:12]}, "
                f"torch {event['torch']}"
            )
        case "round":
            suspects = f"; suspect: {', '.join(event['suspects'])}" if event["suspects"] else ""
            return f"round {event['round']} begins with {len(event['present'])} hospitals{suspects}"
        case "absent":
            return (
                f"{event['hospital']}, round {event['round']}, {event['stage']}: {event['reason']}"
            )
        case "observe" | "train":
            did = "looked at their data" if event["event"] == "observe" else "trained"
            return (
                f"round {event['round']}: {len(event['answered'])} of {len(event['asked'])} "
                f"hospitals {did}"
            )
        case "aggregated":
            away = "; ".join(f"{each['twin']} {each['reason']}" for each in event["turned_away"])
            rejected = f", {event['rejected']} turned away ({away})" if event["rejected"] else ""
            grew = f"; new: {', '.join(event['grew'])}" if event["grew"] else ""
            return (
                f"round {event['rounds_done'] - 1} aggregated, {event['returned']} of "
                f"{event['asked']} hospitals returned{rejected}{grew}"
            )
    return str(event["event"])


def aggregated(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the event of a run's record; nothing for a record that is not of a round."""
    if record["kind"] != "round":
        return None
    rejected = len(record["rejected"])
    return {
        "event": "aggregated",
        "rounds_done": record["round"] + 1,
        "returned": len(record["accepted"]) + rejected,
        "asked": len(record["chosen"]),
        "rejected": rejected,
        "turned_away": [dict(each) for each in record["rejected"]],
        "grew": list(record["grew"]),
        "accuracy": record["accuracy"],
        "num_classes": record["num_classes"],
        "seconds": record["seconds"],
    }


def read_status(folder: Path) -> dict[str, Any]:
    """Return where things stand; nothing before anything has happened."""
    try:
        plain = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return plain if isinstance(plain, dict) else {}


def read_feed(folder: Path, last: int) -> list[dict[str, Any]]:
    """Return the last events, oldest first; a line that is being written is left out."""
    try:
        lines = (folder / FEED).read_text(encoding="utf-8").splitlines()[-last:]
    except FileNotFoundError:
        return []
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events


def write_atomically(path: Path, content: str) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(content, encoding="utf-8")
    beside.replace(path)
