"""A seeded plan of faults: which fault hits which hospital when.

A fault starts a random time after the federation has recovered from the one before, or, with
``at_once``, while it still recovers. Every kind occurs once before any occurs again.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SILENT_SECONDS = 60.0  # after which FLARE's server forgets a hospital


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        name: Name in words.
        victims: Number of hospitals that it hits.
        least: Shortest duration, in deadlines of a stage; 0: it has no duration.
        most: Longest duration.
        at_once: Whether it may start while the federation recovers from another fault.
        needs_session: Whether it can hit something only during a session.
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
        victims: Hospitals that it hits; none: the server, or all.
        after: Seconds until it starts, from the recovery before; with ``at_once`` from the end
            of the fault before.
        seconds: Duration [s].
        at_once: Whether it starts without waiting for a recovery.
    """

    kind: str
    victims: tuple[str, ...]
    after: float
    seconds: float
    at_once: bool


def plan(
    seed: int, hospitals: Sequence[str], deadline: float, kinds: Sequence[Kind] = KINDS
) -> Iterator[Fault]:
    """Yield faults without end; equal seeds give equal faults.

    Args:
        seed: Seed of all draws.
        hospitals: Hospitals that may be hit.
        deadline: Deadline of a stage of a round [s], the unit of a fault's duration.
        kinds: Kinds to choose from.
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
