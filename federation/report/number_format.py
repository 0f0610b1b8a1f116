"""Number formats of the report: rounded, with units, a dash for none."""

from __future__ import annotations

from collections.abc import Iterable

NONE = "\u2013"
_MINUTE, _HOUR = 60, 3600


def percent(share: float | None) -> str:
    """A share between 0 and 1 as percent with one digit."""
    return NONE if share is None else f"{100 * share:.1f}\u00a0%"


def points(difference: float | None) -> str:
    """A difference of two shares in percentage points."""
    return (
        NONE if difference is None else f"{100 * difference:.1f}\u00a0points".replace("-", "\u2212")
    )


def count(value: float | None) -> str:
    """A whole number with its thousands set apart."""
    return NONE if value is None else f"{value:,.0f}".replace(",", "\u202f")


def decimal(value: float | None, digits: int = 3) -> str:
    """A number with fixed digits."""
    return NONE if value is None else f"{value:.{digits}f}".replace("-", "\u2212")


def duration(seconds: float | None) -> str:
    """Seconds as hours, minutes and seconds, the two largest that matter."""
    if seconds is None:
        return NONE
    if seconds < _MINUTE:
        return f"{seconds:.1f}\u00a0s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE}\u00a0min {whole % _MINUTE}\u00a0s"
    return f"{whole // _HOUR}\u00a0h {whole % _HOUR // _MINUTE}\u00a0min"


def megabytes(value: float | None) -> str:
    """Megabytes with one digit."""
    return NONE if value is None else f"{value:,.1f}\u00a0MB".replace(",", "\u202f")


def listed(names: Iterable[object]) -> str:
    """Names with commas between, or a dash."""
    return ", ".join(map(str, names)) or NONE


def total(values: Iterable[float | None]) -> float | None:
    """Sum of what is known, or ``None`` where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
