"""Which fault befalls whom and when: a plan that a seed names. Knows no process and no clock.

A fault begins a random while after the federation has recovered from the one before, or, where it
comes ``at_once``, while it still recovers. Every kind comes once before any comes again.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SILENT_SECONDS = 60.0  # after which FLARE's server forgets a hospital


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        name: In words.
        victims: Hospitals that it befalls.
        least: Shortest time that it lasts, in deadlines of a stage; 0: it is over at once.
        most: Longest.
        at_once: Whether it may come while the federation recovers from another one.
        needs_session: Whether there is something to hit only while a session is under way.
    """

    name: str
    victims: int = 0
    least: float = 0.0
    most: float = 0.0
    at_once: bool = False
    needs_session: bool = False


KINDS = (
    Kind("hospital killed", 1, at_once=True),
    Kind("two hospitals killed", 2, at_once=True),
    Kind("server killed", at_once=True),
    Kind("hospital's job killed", 1, needs_session=True),
    Kind("server's job killed", needs_session=True),
    Kind("slow hospital", 1, 1.2, 2.0, at_once=True),
    Kind("hospital cut off", 1, 0.5, 4.0, at_once=True),
    Kind("network down", 0, 0.5, 4.0, at_once=True),
    Kind("full disk", 1, 0.5, 2.0, needs_session=True),
    Kind("damaged state", 1, needs_session=True),
)
BY_NAME = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        kind: Name of its kind.
        victims: Whom it befalls; none: the server, or all.
        after: Seconds until it begins, from the recovery before, or, at once, from the end of the
            fault before.
        seconds: How long it lasts.
        at_once: Whether it does not wait for a recovery.
    """

    kind: str
    victims: tuple[str, ...]
    after: float
    seconds: float
    at_once: bool


def plan(
    seed: int, hospitals: Sequence[str], deadline: float, kinds: Sequence[Kind] = KINDS
) -> Iterator[Fault]:
    """Give faults without end; the same seed gives the same ones.

    Args:
        seed: Names all that is drawn.
        hospitals: Who may be hit.
        deadline: Of a stage of a round [s]: the measure of slowness.
        kinds: To choose from.
    """
    draw = random.Random(f"chaos-{seed}")
    first = True
    while True:
        for kind in draw.sample(kinds, len(kinds)):
            victims = tuple(draw.sample(list(hospitals), kind.victims))
            at_once = kind.at_once and not first and draw.random() < 0.4
            after = draw.uniform(0.0, 20.0) if at_once else draw.uniform(1.0, 15.0)
            yield Fault(
                kind.name,
                victims,
                round(after, 2),
                round(deadline * draw.uniform(kind.least, kind.most), 2),
                at_once,
            )
            first = False
