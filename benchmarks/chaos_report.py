"""What a run under faults cost, as numbers and as Markdown. Pure: knows no process and no file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from benchmarks.chaos_plan import KINDS, Fault
from benchmarks.chaos_verdict import Check
from benchmarks.measuring import table

_MOST_LINES = 16  # of the feed, around one fault


@dataclass(frozen=True)
class Happened:
    """A fault that was done.

    Args:
        fault: As planned.
        hit: What it hit, in words; empty: nothing.
        began: When [s since the epoch].
        ended: When it was mended.
    """

    fault: Fault
    hit: str
    began: float
    ended: float


@dataclass(frozen=True)
class Episode:
    """A fault, or several of which one came before the federation had recovered from the other.

    Args:
        faults: Oldest first.
        recovered: When the next round was finished after the last of them [s since the epoch];
            none: never.
        rounds_before: Rounds that were finished when it began.
        rounds_after: Rounds that were finished then.
    """

    faults: tuple[Happened, ...]
    recovered: float | None
    rounds_before: int
    rounds_after: int

    @property
    def name(self) -> str:
        """The kinds of its faults."""
        return " + ".join(each.fault.kind for each in self.faults)

    @property
    def began(self) -> float:
        """When its first fault began."""
        return self.faults[0].began


def seconds_lost(episode: Episode, usual_round: float) -> float | None:
    """Return how much later the last round of an episode was finished than without it.

    None where it never was.

    A fault comes at a random moment of a round, so that half of that round was still to do.
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
    """Return the median of the rounds' own seconds, from a deployment's feed.

    0 where there was no round.
    """
    return median(
        [float(each["seconds"]) for each in feed if each["event"] == "aggregated"] or [0.0]
    )


def cost_table(episodes: Sequence[Episode], usual_round: float) -> str:
    """Return what each kind of fault cost, as Markdown.

    Those that came alone, then those that came together.
    """
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
    """Return the verdict as Markdown."""
    return table(
        ("", "must be so", "found"),
        [("good" if each.good else "**BAD**", each.what, each.found) for each in found],
    )


def around(feed: Sequence[Mapping[str, Any]], began: float, until: float) -> list[str]:
    """Return the feed's sentences from a moment to another.

    What is said again and again is said once, with a count.
    """
    said: list[tuple[str, str, int]] = []
    for event in feed:
        at = datetime.fromisoformat(event["at"])
        if int(began) <= at.timestamp() <= until:
            if said and said[-1][1] == event["text"]:
                said[-1] = (said[-1][0], event["text"], said[-1][2] + 1)
            else:
                said.append((at.strftime("%H:%M:%S"), event["text"], 1))
    lines = [f"{at}  {text}" + (f"  (x {count})" if count > 1 else "") for at, text, count in said]
    half = _MOST_LINES // 2
    return (
        lines
        if len(lines) <= _MOST_LINES
        else [*lines[:half], f"          ... {len(lines) - 2 * half} lines", *lines[-half:]]
    )


def diary(
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
        parts += ["```", *around(feed, episode.began, until), "```\n"]
    return "\n".join(parts)
