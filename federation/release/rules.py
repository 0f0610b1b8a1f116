"""When a candidate may be released: a traffic light for each rule. Pure; knows no model and no registry; needs no torch.

Red is a value that the rules do not allow. Amber is a value near that, or one that too few images stand behind to be relied on. The
verdict is the worst light.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import pydantic.dataclasses
from pydantic import ConfigDict

from federation.release.findings import Comparison


class Colour(StrEnum):
    """Of a light."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


_ORDER = (Colour.GREEN, Colour.AMBER, Colour.RED)


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ReleaseRules:
    """What is allowed.

    Args:
        max_loss_per_old_class_points: Most accuracy that any known class may lose [points].
        max_loss_of_old_classes_points: Most that all known classes together may lose [points].
        max_loss_per_hospital_points: Most that any one hospital may lose on known classes [points].
        min_new_class_accuracy: Least accuracy of each new class, in [0, 1].
        min_accuracy: Least accuracy over all classes, in [0, 1].
        max_calibration_error: Largest expected calibration error, in [0, 1].
        fewest_images: Fewer held-out images than this stand behind no green light.
        amber_points: A loss within so many points of its limit is amber.
        amber_margin: An accuracy or error within this of its limit is amber.
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
        for name in (
            "max_loss_per_old_class_points",
            "max_loss_of_old_classes_points",
            "max_loss_per_hospital_points",
            "amber_points",
        ):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 to 100 points")
        for name in (
            "min_new_class_accuracy",
            "min_accuracy",
            "max_calibration_error",
            "amber_margin",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 to 1")
        if self.fewest_images < 0:
            raise ValueError(f"fewest_images is {self.fewest_images}; allowed: 0 or more")


@dataclass(frozen=True)
class Light:
    """One rule, applied.

    Args:
        rule: Its name in ``ReleaseRules``, or ``classes_kept``.
        subject: The class or hospital it is about; empty: the model.
        light: The colour.
        measured: What was found; none where nothing could be.
        allowed: The limit.
        unit: ``points`` or ``share``, or ``classes``.
        num_images: Held-out images behind it.
        text: The finding as a sentence.
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
    """All lights, and the worst of them."""

    overall: Colour
    lights: tuple[Light, ...]

    def as_plain(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {
            "overall": str(self.overall),
            "lights": [{**asdict(each), "light": str(each.light)} for each in self.lights],
        }


def judge(comparison: Comparison, rules: ReleaseRules) -> Verdict:
    """Apply the rules; worst lights first, rules in their own order among equals."""
    lights = tuple(_lights(comparison, rules))
    worst = max((each.light for each in lights), key=_ORDER.index)
    return Verdict(worst, tuple(sorted(lights, key=lambda each: -_ORDER.index(each.light))))


def _lights(found: Comparison, rules: ReleaseRules) -> Iterable[Light]:
    if found.champion is not None:
        yield _kept(
            found.champion.class_names, found.candidate.class_names, found.candidate.num_images
        )
        for each in found.classes:
            if not each.is_new:
                limit = ("max_loss_per_old_class_points", rules.max_loss_per_old_class_points)
                yield _loss(limit, each.class_name, each.loss_points, each.num_images, rules)
        before, after = found.known_accuracy.champion, found.known_accuracy.candidate
        lost = None if before is None or after is None else round((before - after) * 100, 6)
        limit = ("max_loss_of_old_classes_points", rules.max_loss_of_old_classes_points)
        yield _loss(limit, "", lost, found.known_accuracy.num_images, rules)
        for hospital in found.hospitals:
            if hospital.num_images:
                limit = ("max_loss_per_hospital_points", rules.max_loss_per_hospital_points)
                yield _loss(
                    limit, hospital.hospital, hospital.loss_points, hospital.num_images, rules
                )
    for each in found.classes:
        if each.is_new or found.champion is None:
            limit = ("min_new_class_accuracy", rules.min_new_class_accuracy)
            yield _least(limit, each.class_name, each.candidate_accuracy, each.num_images, rules)
    total = found.candidate.num_images
    yield _least(("min_accuracy", rules.min_accuracy), "", found.candidate.accuracy, total, rules)
    yield _error(found.candidate.calibration_error, total, rules)


def _kept(before: Sequence[str], after: Sequence[str], num_images: int) -> Light:
    missing = [name for name in before if name not in after]
    text = (
        f"The candidate does not know {', '.join(missing)}."
        if missing
        else f"The candidate knows all {len(before)} classes of the champion."
    )
    return Light(
        "classes_kept",
        "",
        Colour.RED if missing else Colour.GREEN,
        float(len(missing)),
        0.0,
        "classes",
        num_images,
        text,
    )


def _loss(
    limit: tuple[str, float], subject: str, lost: float | None, num_images: int, rules: ReleaseRules
) -> Light:
    rule, allowed = limit
    who = subject or "All known classes together"
    if lost is None:
        return _nothing(
            limit, subject, "points", f"{who}: no held-out image, so nothing is known of a loss."
        )
    near = round(allowed - rules.amber_points, 9)
    light = (
        Colour.RED if lost > allowed else Colour.AMBER if lost > near and lost > 0 else Colour.GREEN
    )
    change = f"lost {lost:.1f}" if lost > 0 else f"gained {-lost:.1f}" if lost < 0 else "lost 0.0"
    text = f"{who}: {change} points on {num_images} images; allowed: a loss of {allowed:g}."
    return _with_few(Light(rule, subject, light, lost, allowed, "points", num_images, text), rules)


def _least(
    limit: tuple[str, float],
    subject: str,
    measured: float | None,
    num_images: int,
    rules: ReleaseRules,
) -> Light:
    rule, allowed = limit
    who = f"Class {subject}" if subject else "All classes"
    if measured is None:
        return _nothing(
            limit,
            subject,
            "share",
            f"{who}: no held-out image, so nothing is known of its accuracy.",
        )
    light = (
        Colour.RED
        if measured < allowed
        else Colour.AMBER
        if measured < min(round(allowed + rules.amber_margin, 9), 1.0)
        else Colour.GREEN
    )
    text = f"{who}: accuracy {measured:.3f} on {num_images} images; needed: {allowed:g}."
    return _with_few(
        Light(rule, subject, light, measured, allowed, "share", num_images, text), rules
    )


def _error(measured: float | None, num_images: int, rules: ReleaseRules) -> Light:
    limit = allowed = rules.max_calibration_error
    if measured is None:
        return _nothing(
            ("max_calibration_error", limit),
            "",
            "share",
            "No held-out image, so nothing is known of the calibration.",
        )
    light = (
        Colour.RED
        if measured > allowed
        else Colour.AMBER
        if measured > round(allowed - rules.amber_margin, 9)
        else Colour.GREEN
    )
    text = (
        f"Expected calibration error {measured:.3f} on {num_images} images; allowed: {allowed:g}."
    )
    return _with_few(
        Light("max_calibration_error", "", light, measured, allowed, "share", num_images, text),
        rules,
    )


def _nothing(limit: tuple[str, float], subject: str, unit: str, text: str) -> Light:
    return Light(limit[0], subject, Colour.AMBER, None, limit[1], unit, 0, text)


def _with_few(light: Light, rules: ReleaseRules) -> Light:
    """Turn a green light amber where too few images stand behind it."""
    if light.light is not Colour.GREEN or light.num_images >= rules.fewest_images:
        return light
    few = f"{light.text} Fewer than {rules.fewest_images} images: look at them."
    values: Mapping[str, Any] = {**asdict(light), "light": Colour.AMBER, "text": few}
    return Light(**values)
