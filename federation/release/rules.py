"""Release rules: a traffic light for each rule says whether a candidate may be released.

Red: the rule forbids the value. Amber: the value is near the limit, or too few images support it.
The verdict is the worst light. Pure functions that need neither torch nor the registry.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any

import pydantic.dataclasses
from pydantic import ConfigDict

from federation.release.findings import Comparison


class Colour(StrEnum):
    """Colour of a light."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


_ORDER = (Colour.GREEN, Colour.AMBER, Colour.RED)


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ReleaseRules:
    """Limits of a release.

    Args:
        max_loss_per_old_class_points: Most accuracy that any known class may lose [points].
        max_loss_of_old_classes_points: Most that all known classes together may lose [points].
        max_loss_per_hospital_points: Most that a hospital may lose on known classes [points].
        min_new_class_accuracy: Least accuracy of each new class, in [0, 1].
        min_accuracy: Least accuracy over all classes, in [0, 1].
        max_calibration_error: Largest expected calibration error, in [0, 1].
        fewest_images: With fewer held-out images a green light becomes amber.
        amber_points: A loss within this distance of its limit is amber [points].
        amber_margin: An accuracy or error within this distance of its limit is amber.
    """

    max_loss_per_old_class_points: float = 2.0
    max_loss_of_old_classes_points: float = 1.0
    max_loss_per_hospital_points: float = 5.0
    min_new_class_accuracy: float = 0.7
    min_accuracy: float = 0.5
    max_calibration_error: float = 0.15
    fewest_images: int = 10
    amber_points: float = 0.5
    amber_margin: float = 0.05

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in (each.name for each in fields(self) if each.name != "fewest_images"):
            most, unit = (100, " points") if name.endswith("_points") else (1, "")
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 to {most}{unit}")
        if self.fewest_images < 0:
            raise ValueError(f"fewest_images is {self.fewest_images}; allowed: 0 or more")


@dataclass(frozen=True)
class Light:
    """Result of one rule.

    Args:
        rule: Name of the rule in ``ReleaseRules``, or ``classes_kept``.
        subject: The class or hospital that was judged; empty: the whole model.
        light: The colour.
        measured: The measured value; none where nothing could be measured.
        allowed: The limit.
        unit: ``points``, ``share`` or ``classes``.
        num_images: Held-out images behind the measured value.
        text: The result as a sentence.
    """

    rule: str
    subject: str
    light: Colour
    measured: float | None
    allowed: float
    unit: str
    num_images: int
    text: str


@dataclass(frozen=True)
class Verdict:
    """All lights and the worst colour among them."""

    overall: Colour
    lights: tuple[Light, ...]

    def as_plain(self) -> dict[str, Any]:
        """Return the verdict as plain data for JSON."""
        return {
            "overall": str(self.overall),
            "lights": [{**asdict(each), "light": str(each.light)} for each in self.lights],
        }


def judge(comparison: Comparison, rules: ReleaseRules) -> Verdict:
    """Apply the rules; the worst lights come first, equal ones in the order of the rules."""
    lights = [_check_num_images(each, rules) for each in _lights(comparison, rules)]
    lights.sort(key=lambda each: -_ORDER.index(each.light))
    return Verdict(lights[0].light, tuple(lights))


def _lights(found: Comparison, rules: ReleaseRules) -> Iterable[Light]:
    if found.champion is not None:
        yield _classes_kept(
            found.champion.class_names, found.candidate.class_names, found.candidate.num_images
        )
        rule = "max_loss_per_old_class_points"
        for each in found.classes:
            if not each.is_new:
                yield _loss(rule, each.class_name, each.loss_points, each.num_images, rules)
        known = found.known_accuracy
        lost = None
        if known.champion is not None and known.candidate is not None:
            lost = round((known.champion - known.candidate) * 100, 6)
        yield _loss("max_loss_of_old_classes_points", "", lost, known.num_images, rules)
        rule = "max_loss_per_hospital_points"
        for hospital in found.hospitals:
            if hospital.num_images:
                name, lost, count = hospital.hospital, hospital.loss_points, hospital.num_images
                yield _loss(rule, name, lost, count, rules)
    rule = "min_new_class_accuracy"
    for each in found.classes:
        if each.is_new or found.champion is None:
            yield _accuracy(rule, each.class_name, each.candidate_accuracy, each.num_images, rules)
    total = found.candidate.num_images
    yield _accuracy("min_accuracy", "", found.candidate.accuracy, total, rules)
    yield _calibration(found.candidate.calibration_error, total, rules)


def _classes_kept(before: Sequence[str], after: Sequence[str], num_images: int) -> Light:
    missing = [name for name in before if name not in after]
    light, text = Colour.GREEN, f"The candidate knows all {len(before)} classes of the champion."
    if missing:
        light, text = Colour.RED, f"The candidate does not know {', '.join(missing)}."
    return Light("classes_kept", "", light, float(len(missing)), 0.0, "classes", num_images, text)


def _loss(
    rule: str, subject: str, lost: float | None, num_images: int, rules: ReleaseRules
) -> Light:
    allowed: float = getattr(rules, rule)
    who = subject or "All known classes together"
    if lost is None:
        text = f"{who}: no held-out image, so nothing is known of a loss."
        return _not_measured(rule, subject, allowed, "points", text)
    is_near = lost > max(round(allowed - rules.amber_points, 9), 0)
    change = f"lost {lost:.1f}" if lost > 0 else f"gained {-lost:.1f}" if lost < 0 else "lost 0.0"
    text = f"{who}: {change} points on {num_images} images; allowed: a loss of {allowed:g}."
    light = _colour(lost > allowed, is_near)
    return Light(rule, subject, light, lost, allowed, "points", num_images, text)


def _accuracy(
    rule: str, subject: str, measured: float | None, num_images: int, rules: ReleaseRules
) -> Light:
    allowed: float = getattr(rules, rule)
    who = f"Class {subject}" if subject else "All classes"
    if measured is None:
        text = f"{who}: no held-out image, so nothing is known of its accuracy."
        return _not_measured(rule, subject, allowed, "share", text)
    is_near = measured < min(round(allowed + rules.amber_margin, 9), 1.0)
    text = f"{who}: accuracy {measured:.3f} on {num_images} images; needed: {allowed:g}."
    light = _colour(measured < allowed, is_near)
    return Light(rule, subject, light, measured, allowed, "share", num_images, text)


def _calibration(measured: float | None, num_images: int, rules: ReleaseRules) -> Light:
    rule, allowed = "max_calibration_error", rules.max_calibration_error
    if measured is None:
        text = "No held-out image, so nothing is known of the calibration."
        return _not_measured(rule, "", allowed, "share", text)
    is_near = measured > round(allowed - rules.amber_margin, 9)
    error = f"Expected calibration error {measured:.3f}"
    text = f"{error} on {num_images} images; allowed: {allowed:g}."
    light = _colour(measured > allowed, is_near)
    return Light(rule, "", light, measured, allowed, "share", num_images, text)


def _colour(is_forbidden: bool, is_near_limit: bool) -> Colour:
    return Colour.RED if is_forbidden else Colour.AMBER if is_near_limit else Colour.GREEN


def _not_measured(rule: str, subject: str, allowed: float, unit: str, text: str) -> Light:
    return Light(rule, subject, Colour.AMBER, None, allowed, unit, 0, text)


def _check_num_images(light: Light, rules: ReleaseRules) -> Light:
    """Turn a green light amber where too few images support it."""
    enough = light.num_images >= rules.fewest_images or light.rule == "classes_kept"
    if light.light is not Colour.GREEN or enough:
        return light
    text = f"{light.text} Fewer than {rules.fewest_images} images: look at them."
    return replace(light, light=Colour.AMBER, text=text)
