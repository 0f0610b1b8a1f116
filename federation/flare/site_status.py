"""Status file of a hospital: what it did last."""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from federation.flare.event_feed import STATUS, utc_now, write_atomically

_LOG = logging.getLogger(__name__)


def note_answer(
    folder: Path, hospital: str, verb: str, last_round: Callable[[], int], fault: str
) -> None:
    """Write down what was answered; a full disk is no reason not to answer.

    Args:
        folder: Of the hospital's own files.
        hospital: Its name.
        verb: That was asked.
        last_round: Gives the last round of its twin.
        fault: What was raised, without its own words; empty if nothing was.
    """
    with suppress(OSError, ValueError):
        at, number = utc_now().isoformat(timespec="seconds"), last_round()
        said = {"at": at, "hospital": hospital, "verb": verb, "last_round": number, "fault": fault}
        _LOG.log(
            logging.WARNING if fault else logging.INFO,
            "answered %s, last round %d%s",
            verb,
            number,
            f": {fault}" if fault else "",
        )
        write_atomically(folder / STATUS, json.dumps(said, indent=1))
