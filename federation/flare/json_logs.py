"""Logs as lines of JSON with rotation.

An error is logged as its kind and where it was raised, as a hospital's fault is: its own words may
hold a file's name, and so a patient's. Messages are cut, so that nothing large is written by
accident. Knows no FLARE: FLARE is given the settings and builds these classes.
"""

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from federation.flare.link_messages import OURS, describe

LOG_CONFIG = "log_config.json"  # in a kit's local/
LOG_FILE = "log.jsonl"
_LONGEST = 500  # characters of a message
_QUIET_SECONDS = 60.0
_BYTES, _KEPT = 10_000_000, 5


class JsonLines(logging.Formatter):
    """Writes a record as one line: when, how grave, who, what, and an error's kind and place."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = record.getMessage()
        line: dict[str, Any] = {
            "at": at,
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
        }
        line["message"] = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."
        if repeated := getattr(record, "repeated", 0):
            line["repeated"] = repeated
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = describe(record.exc_info[1])
        return json.dumps(line)


class OnceAMinute(logging.Filter):
    """Lets the same complaint of the same logger through once a minute.

    Then says how often it was repeated.

    A site that cannot reach the server complains every few seconds, for as long as the server is
    away.

    Args:
        clock: Gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to let it through."""
        key = record.name, record.lineno, record.getMessage()[:80]
        now = self._clock()
        since, count = self._last.get(key, (-_QUIET_SECONDS, 0))
        if now - since < _QUIET_SECONDS:
            self._last[key] = since, count + 1
            return False
        if len(self._last) > 1000:
            self._last.clear()
        self._last[key] = now, 0
        record.repeated = count
        return True


def log_config() -> dict[str, Any]:
    """Return what stands in a kit's ``local/log_config.json``.

    FLARE puts its own folder before the file's name, and builds the rest.
    """
    lines = {"()": f"{__name__}.{JsonLines.__name__}"}
    once = {"()": f"{__name__}.{OnceAMinute.__name__}"}
    file = {
        "class": "logging.handlers.RotatingFileHandler",
        "formatter": "lines",
        "filters": ["once"],
        "filename": LOG_FILE,
        "maxBytes": _BYTES,
        "backupCount": _KEPT,
        "encoding": "utf-8",
    }
    console = {
        "class": "logging.StreamHandler",
        "formatter": "lines",
        "filters": ["once_here"],
        "stream": "ext://sys.stdout",
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": lines},
        "filters": {"once": once, "once_here": once},
        "handlers": {"file": file, "console": console},
        "loggers": {name: {"level": "INFO"} for name in OURS},
        "root": {"level": "WARNING", "handlers": ["file", "console"]},
    }
