"""Version check: packages that a kit was made with against those it runs with."""

import json
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from federation.experiment.run_folder import code_version
from federation.flare.certificates import Finding
from federation.flare.event_feed import write_atomically
from federation.flare.records import RECORD_VERSION

MADE_WITH = "made_with.json"
FLARE_FROM, FLARE_BELOW = (2, 9), (2, 10)


def versions() -> dict[str, Any]:
    """Return what is installed here."""
    packages = {name: _version(name) for name in ("torch", "nvflare")}
    return {
        "records": RECORD_VERSION,
        "fedka": code_version(),
        **packages,
        "python": platform.python_version(),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def write_made_with(folder: Path, now: datetime | None = None) -> None:
    """Write down what is installed where a kit is made, beside what is the kit's own."""
    at = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    write_atomically(folder / MADE_WITH, json.dumps({"at": at, **versions()}, indent=1))


def version_findings(
    site: str, folder: Path, now: datetime, here: Mapping[str, Any]
) -> Iterator[Finding]:
    """Compare what is installed here with what the kit was made with.

    Args:
        site: For the findings.
        folder: That is the kit's own.
        now: The time.
        here: What is installed, as ``versions`` says it.
    """
    flare = here["nvflare"]
    allowed = f"{'.'.join(map(str, FLARE_FROM))} or newer, below {'.'.join(map(str, FLARE_BELOW))}"
    good = FLARE_FROM <= _numbers(flare) < FLARE_BELOW
    install = "pip install 'fedka[flare]'"
    yield (
        Finding(site, "nvflare", "ok", flare)
        if good
        else Finding(site, "nvflare", "error", flare, allowed, install)
    )
    try:
        made = json.loads((folder / MADE_WITH).read_text(encoding="utf-8"))
        at = datetime.fromisoformat(made["at"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = f"{MADE_WITH} cannot be read: {type(error).__name__}"
        yield Finding(
            site,
            "versions",
            "warning",
            said,
            "as fedka deploy init wrote it",
            "compare versions with the other sites by hand",
        )
        return
    if now < at:
        yield Finding(
            site,
            "clock",
            "error",
            f"{now:%Y-%m-%d %H:%M} UTC",
            f"after {at:%Y-%m-%d %H:%M} UTC, when the kit was made",
            "set it",
        )
    advice = "install at every site what the kits were made with, or make them anew with this"
    for name in ("records", "fedka", "torch"):
        got, meant = str(here[name]), str(made.get(name))
        if got == meant:
            yield Finding(site, name, "ok", got)
        else:
            level: Literal["error", "warning"] = "error" if name == "records" else "warning"
            yield Finding(site, name, level, got, meant, advice)


def _numbers(version_text: str) -> tuple[int, ...]:
    """Return the first two numbers of a version; (0,) where it has none."""
    parts = version_text.split(".")[:2]
    return tuple(int(each) for each in parts) if all(each.isdigit() for each in parts) else (0,)
