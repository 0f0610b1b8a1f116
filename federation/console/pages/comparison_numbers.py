"""A comparison as a page shows it, from the plain values of ``comparison.json``.

Pure; judges nothing itself: the lights come with the comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from federation.console.pages.charts import Delta, delta
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
_LEAST_RANGE = 5.0  # points that fill half a bar at least: small differences stay small


@dataclass(frozen=True)
class ModelNumbers:
    """One model's overall numbers."""

    accuracy: float
    macro_f1: float
    calibration_error: float
    num_images: int


@dataclass(frozen=True)
class RuleLight:
    """One rule with its light."""

    light: str
    words: str
    text: str
    measured: str
    allowed: str


@dataclass(frozen=True)
class Change:
    """A class (or a hospital) before and after; ``change`` in points, none where there was nothing before."""

    class_name: str
    num_images: int
    is_new: bool
    before: float | None
    after: float
    change: float | None
    bar: Delta | None


@dataclass(frozen=True)
class Verdict:
    """The whole comparison, ready to be shown."""

    overall: str
    headline: str
    subline: str
    candidate: ModelNumbers
    champion: ModelNumbers | None
    lights: tuple[RuleLight, ...]
    classes: tuple[Change, ...]
    hospitals: tuple[Change, ...]
    num_changed: int
    num_mended: int
    num_broken: int


def make_verdict(comparison: Mapping[str, Any]) -> Verdict:
    """Return what the page shows of a comparison."""
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
    subline = f"{len(lights)} checks: {len(lights) - len(failed) - len(near)} passed, {len(near)} near the limit, {len(failed)} not passed."
    return Verdict(
        overall=overall,
        headline=headline,
        subline=subline,
        candidate=_numbers(comparison["candidate"]),
        champion=_numbers(comparison["champion"]) if comparison["champion"] else None,
        lights=tuple(_light(each) for each in lights),
        classes=_changes(comparison["classes"], "class_name"),
        hospitals=_changes(comparison.get("hospitals", ()), "hospital"),
        num_changed=int(comparison.get("num_changed", 0)),
        num_mended=int(comparison.get("num_mended", 0)),
        num_broken=int(comparison.get("num_broken", 0)),
    )


def _numbers(plain: Mapping[str, Any]) -> ModelNumbers:
    return ModelNumbers(
        float(plain["accuracy"]),
        float(plain["macro_f1"]),
        float(plain["calibration_error"]),
        int(plain["num_images"]),
    )


def _light(plain: Mapping[str, Any]) -> RuleLight:
    subject = str(plain.get("subject") or "")
    words = _RULES.get(str(plain["rule"]), spaced(plain["rule"]))
    unit = str(plain.get("unit") or "")
    return RuleLight(
        light=str(plain["light"]),
        words=f"{words}: {subject}" if subject else words,
        text=str(plain.get("text") or ""),
        measured=_value(plain["measured"], unit),
        allowed=f"{'at least' if str(plain['rule']).startswith('min_') else 'at most'} {_value(plain['allowed'], unit)}",
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


def _changes(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[Change, ...]:
    losses = [abs(float(row["loss_points"])) for row in rows if row.get("loss_points") is not None]
    largest = max([_LEAST_RANGE, *losses])
    changes = []
    for row in rows:
        before = row.get("champion_accuracy")
        loss = row.get("loss_points")
        change = None if loss is None else -float(loss)
        changes.append(
            Change(
                class_name=str(row[name]),
                num_images=int(row["num_images"]),
                is_new=bool(row.get("is_new", False)),
                before=None if before is None else float(before),
                after=float(row["candidate_accuracy"]),
                change=change,
                bar=None if change is None else delta(change, largest),
            )
        )
    # New classes first, then the greatest loss: what decides stands on top.
    return tuple(
        sorted(
            changes,
            key=lambda each: (not each.is_new, each.change if each.change is not None else 0.0),
        )
    )
