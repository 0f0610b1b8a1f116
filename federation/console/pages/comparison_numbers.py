"""View model of a comparison, from the plain values of ``comparison.json``.

The comparison already contains the light of each rule; nothing is judged here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from federation.console.pages.charts import DifferenceBar, difference_bar
from federation.console.pages.wording import fraction, spaced

_RULES = {
    "max_loss_per_old_class_points": "Loss of one known class",
    "max_loss_of_old_classes_points": "Loss of the known classes together",
    "max_loss_per_hospital_points": "Loss in one hospital",
    "min_new_class_accuracy": "Accuracy of the new class",
    "min_accuracy": "Accuracy over all classes",
    "max_calibration_error": "Calibration error",
    "classes_kept": "Known classes that it has lost",
}
_LEAST_RANGE = 5.0  # points for half a bar at least, so that small differences look small


@dataclass(frozen=True)
class RuleLight:
    """One rule of the release with its light."""

    light: str
    label: str
    text: str
    measured: str
    allowed: str


@dataclass(frozen=True)
class AccuracyChange:
    """Accuracy of a class or hospital before and after.

    ``change`` is in percentage points, None if there was nothing before.
    """

    class_name: str
    num_images: int
    is_new: bool
    before: float | None
    after: float
    change: float | None
    bar: DifferenceBar | None


@dataclass(frozen=True)
class ComparisonSummary:
    """The whole comparison as the page shows it."""

    overall: str
    headline: str
    subline: str
    candidate: Mapping[str, Any]
    champion: Mapping[str, Any] | None
    lights: tuple[RuleLight, ...]
    classes: tuple[AccuracyChange, ...]
    hospitals: tuple[AccuracyChange, ...]
    num_changed: int
    num_mended: int
    num_broken: int


def summarize_comparison(comparison: Mapping[str, Any]) -> ComparisonSummary:
    """Return the view model of a comparison."""
    lights = sorted(
        comparison["verdict"]["lights"],
        key=lambda each: ("red", "amber", "green").index(each["light"]),
    )
    overall = str(comparison["verdict"]["overall"])
    failed = [each for each in lights if each["light"] == "red"]
    near = [each for each in lights if each["light"] == "amber"]
    headline = {
        "green": "Every rule is passed",
        "amber": "Every rule is passed, some only just",
        "red": f"{len(failed)} {'rule is' if len(failed) == 1 else 'rules are'} not passed",
    }[overall]
    num_passed = len(lights) - len(failed) - len(near)
    subline = (
        f"{len(lights)} checks: {num_passed} passed, {len(near)} near the limit, "
        f"{len(failed)} not passed."
    )
    return ComparisonSummary(
        overall=overall,
        headline=headline,
        subline=subline,
        candidate=comparison["candidate"],
        champion=comparison["champion"] or None,
        lights=tuple(_light(each) for each in lights),
        classes=_changes(comparison["classes"], "class_name"),
        hospitals=_changes(comparison.get("hospitals", ()), "hospital"),
        num_changed=int(comparison.get("num_changed", 0)),
        num_mended=int(comparison.get("num_mended", 0)),
        num_broken=int(comparison.get("num_broken", 0)),
    )


def _light(plain: Mapping[str, Any]) -> RuleLight:
    subject = str(plain.get("subject") or "")
    label = _RULES.get(str(plain["rule"]), spaced(plain["rule"]))
    unit = str(plain.get("unit") or "")
    bound = "at least" if str(plain["rule"]).startswith("min_") else "at most"
    return RuleLight(
        light=str(plain["light"]),
        label=f"{label}: {subject}" if subject else label,
        text=str(plain.get("text") or ""),
        measured=_value(plain["measured"], unit),
        allowed=f"{bound} {_value(plain['allowed'], unit)}",
    )


def _value(value: object, unit: str) -> str:
    if not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if unit in ("share", "fraction"):
        return f"{100 * value:.1f} %"
    if unit == "classes":
        return f"{value:.0f}"
    if unit == "points":
        return f"{value:.1f} points"
    return f"{fraction(float(value), 3)} {unit}".strip()


def _changes(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[AccuracyChange, ...]:
    losses = [abs(float(row["loss_points"])) for row in rows if row.get("loss_points") is not None]
    largest = max([_LEAST_RANGE, *losses])
    changes = []
    for row in rows:
        before = row.get("champion_accuracy")
        loss = row.get("loss_points")
        change = None if loss is None else -float(loss)
        changes.append(
            AccuracyChange(
                class_name=str(row[name]),
                num_images=int(row["num_images"]),
                is_new=bool(row.get("is_new", False)),
                before=None if before is None else float(before),
                after=float(row["candidate_accuracy"]),
                change=change,
                bar=None if change is None else difference_bar(change, largest),
            )
        )
    # New classes first, then by loss, the greatest first.
    return tuple(sorted(changes, key=lambda each: (not each.is_new, each.change or 0.0)))
