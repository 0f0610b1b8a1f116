"""Tables and Markdown text of a run under faults: time lost by each fault, and the event log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from benchmarks.chaos_plan import KINDS, Fault
from benchmarks.chaos_verdict import Check
from benchmarks.measuring import table

_MOST_LINES = 16  # lines of the feed shown around one fault


@dataclass(frozen=True)
class InjectedFault:
    """A fault that was injected.

    Args:
        fault: The planned fault.
        hit: Description of what it hit; empty: nothing.
        began: Start [s since the epoch].
        ended: End [s since the epoch].
    """

    fault: Fault
    hit: str
    began: float
    ended: float


@dataclass(frozen=True)
class Episode:
    """A fault, or several that started before the federation had recovered from the first.

    Args:
        faults: The faults, oldest first.
        recovered: When the next round after the last of them finished [s since the epoch]; None:
            never.
        rounds_before: Number of finished rounds at the start.
        rounds_after: Number of finished rounds at the recovery.
    """

    faults: tuple[InjectedFault, ...]
    recovered: float | None
    rounds_before: int
    rounds_after: int

    @property
    def name(self) -> str:
        """Names of the faults' kinds."""
        return " + ".join(each.fault.kind for each in self.faults)

    @property
    def began(self) -> float:
        """Start of the first fault [s since the epoch]."""
        return self.faults[0].began


def seconds_lost(episode: Episode, usual_round: float) -> float | None:
    """Return the delay of an episode's last round caused by its faults [s]; None: no recovery.

    A fault starts at a random moment of a round, so half of that round was still to do.
    """
    if episode.recovered is None:
        return None
    return max(
        0.0,
        episode.recovered
        - episode.began
        - usual_round * (episode.rounds_after - episode.rounds_before - 0.5),
    )


def usual_seconds(feed: Sequence[Mapping[str, Any]]) -> float:
    """Return the median duration of the feed's rounds [s]; 0 if there is none."""
    return median(
        [float(each["seconds"]) for each in feed if each["event"] == "aggregated"] or [0.0]
    )


def cost_table(episodes: Sequence[Episode], usual_round: float) -> str:
    """Return the cost of each kind of fault as Markdown: single faults, then combined ones."""
    rows: list[tuple[str, int, str, str, str]] = []
    for name in dict.fromkeys([*(kind.name for kind in KINDS), *(each.name for each in episodes)]):
        mine = [each for each in episodes if each.name == name]
        lost = [
            seconds for each in mine if (seconds := seconds_lost(each, usual_round)) is not None
        ]
        lasted = [sum(one.ended - one.began for one in each.faults) for each in mine]
        if mine:
            most = f"{max(lost, default=0):.0f}"
            rows.append(
                (
                    name,
                    len(mine),
                    f"{median(lasted):.0f}",
                    f"{median(lost):.0f}" if lost else "never",
                    most,
                )
            )
    return table(
        ("fault", "times", "lasted, median [s]", "lost, median [s]", "lost, most [s]"), rows
    )


def check_table(found: Sequence[Check]) -> str:
    """Return the result of the checks as Markdown."""
    return table(
        ("", "must be so", "found"),
        [("good" if each.good else "**BAD**", each.what, each.found) for each in found],
    )


def feed_between(feed: Sequence[Mapping[str, Any]], began: float, until: float) -> list[str]:
    """Return the feed's messages of a time span; repeated messages are counted."""
    entries: list[tuple[str, str, int]] = []
    for event in feed:
        at = datetime.fromisoformat(event["at"])
        if int(began) <= at.timestamp() <= until:
            if entries and entries[-1][1] == event["text"]:
                entries[-1] = (entries[-1][0], event["text"], entries[-1][2] + 1)
            else:
                entries.append((at.strftime("%H:%M:%S"), event["text"], 1))
    lines = [
        f"{at}  {text}" + (f"  (x {count})" if count > 1 else "") for at, text, count in entries
    ]
    half = _MOST_LINES // 2
    return (
        lines
        if len(lines) <= _MOST_LINES
        else [*lines[:half], f"          ... {len(lines) - 2 * half} lines", *lines[-half:]]
    )


def episode_log(
    episodes: Sequence[Episode],
    feed: Sequence[Mapping[str, Any]],
    started: float,
    usual_round: float,
) -> str:
    """Return each episode with the feed around it, as Markdown."""
    parts = []
    for number, episode in enumerate(episodes, 1):
        parts.append(f"### {number}. {episode.name}, after {episode.rounds_before} rounds\n")
        for each in episode.faults:
            whom = ", ".join(each.fault.victims) or "all"
            lasted = f", for {each.ended - each.began:.0f} s" if each.fault.seconds else ""
            parts.append(
                f"* second {each.began - started:.0f}: {each.fault.kind}, {whom}{lasted}: "
                f"{each.hit or 'there was nothing to hit'}"
            )
        lost = seconds_lost(episode, usual_round)
        parts.append(f"* {'never recovered' if lost is None else f'{lost:.0f} s lost'}\n")
        until = episode.recovered or max(each.ended for each in episode.faults)
        parts += ["```", *feed_between(feed, episode.began, until), "```\n"]
    return "\n".join(parts)
