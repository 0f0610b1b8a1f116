from collections.abc import Callable
from typing import Any

import pytest

from federation.release.findings import (
    ClassFinding,
    Comparison,
    HospitalFinding,
    KnownAccuracy,
    ModelFinding,
)
from federation.release.rules import Colour, ReleaseRules, judge

GREEN, AMBER, RED = Colour


def comparison(
    lost: float | None = 0.0,
    new: float | None = 0.9,
    num: int = 50,
    accuracy: float = 0.9,
    calibration: float | None = 0.03,
    known_loss: float = 0.0,
    hospital_loss: float = 0.0,
    names: tuple[str, ...] = ("liver", "pancreas"),
    champion: bool = True,
) -> Comparison:
    """One known class, one new class, one hospital."""
    before = 0.95
    after = None if lost is None else before - lost / 100
    return Comparison(
        ModelFinding("sha256:new", names, accuracy, 0.9, calibration, 2 * num),
        ModelFinding("sha256:old", ("liver",), 0.5, 0.5, 0.02, 2 * num) if champion else None,
        (
            ClassFinding(
                "liver",
                0 if lost is None else num,
                False,
                after,
                before if champion else None,
                lost if champion else None,
            ),
            ClassFinding("pancreas", 0 if new is None else num, champion, new, None, None),
        ),
        (HospitalFinding("north", num, 0.9, 0.9 + hospital_loss / 100, hospital_loss),)
        if champion
        else (),
        KnownAccuracy(0.95 - known_loss / 100, 0.95, num),
        0,
        0,
        0,
        (),
    )


@pytest.mark.parametrize(
    ("rule", "found", "light"),
    [
        ("max_loss_per_old_class_points", {"lost": -3.0}, GREEN),
        ("max_loss_per_old_class_points", {"lost": 0.0}, GREEN),
        ("max_loss_per_old_class_points", {"lost": 1.5}, GREEN),
        ("max_loss_per_old_class_points", {"lost": 1.6}, AMBER),
        ("max_loss_per_old_class_points", {"lost": 2.0}, AMBER),
        ("max_loss_per_old_class_points", {"lost": 2.1}, RED),
        ("max_loss_per_old_class_points", {"lost": None}, AMBER),
        ("max_loss_per_old_class_points", {"lost": 0.0, "num": 9}, AMBER),
        ("max_loss_per_old_class_points", {"lost": 9.0, "num": 9}, RED),
        ("max_loss_of_old_classes_points", {"known_loss": 0.4}, GREEN),
        ("max_loss_of_old_classes_points", {"known_loss": 0.9}, AMBER),
        ("max_loss_of_old_classes_points", {"known_loss": 1.2}, RED),
        ("max_loss_per_hospital_points", {"hospital_loss": 4.0}, GREEN),
        ("max_loss_per_hospital_points", {"hospital_loss": 4.9}, AMBER),
        ("max_loss_per_hospital_points", {"hospital_loss": 5.5}, RED),
        ("min_new_class_accuracy", {"new": 0.75}, GREEN),
        ("min_new_class_accuracy", {"new": 0.7}, AMBER),
        ("min_new_class_accuracy", {"new": 0.69}, RED),
        ("min_new_class_accuracy", {"new": None}, AMBER),
        ("min_new_class_accuracy", {"new": 1.0, "num": 3}, AMBER),
        ("min_accuracy", {"accuracy": 0.56}, GREEN),
        ("min_accuracy", {"accuracy": 0.5}, AMBER),
        ("min_accuracy", {"accuracy": 0.4}, RED),
        ("max_calibration_error", {"calibration": 0.1}, GREEN),
        ("max_calibration_error", {"calibration": 0.15}, AMBER),
        ("max_calibration_error", {"calibration": 0.16}, RED),
        ("max_calibration_error", {"calibration": None}, AMBER),
        ("classes_kept", {}, GREEN),
        ("classes_kept", {"names": ("pancreas",)}, RED),
    ],
)
def test_each_rule_changes_colour_at_its_limits(
    rule: Any, found: dict[str, Any], light: Colour
) -> None:
    verdict = judge(comparison(**found), ReleaseRules())
    (decided,) = [each for each in verdict.lights if each.rule == rule]
    assert decided.light is light
    assert verdict.overall is max(
        (each.light for each in verdict.lights), key=[GREEN, AMBER, RED].index
    )
    if rule != "classes_kept":
        assert decided.allowed == getattr(ReleaseRules(), rule)


def test_light_holds_measured_value_limit_and_number_of_images() -> None:
    (worst, *rest) = judge(comparison(lost=3.0, num=40), ReleaseRules()).lights
    assert (worst.rule, worst.subject, worst.light, worst.unit, worst.num_images) == (
        "max_loss_per_old_class_points",
        "liver",
        RED,
        "points",
        40,
    )
    assert worst.text == "liver: lost 3.0 points on 40 images; allowed: a loss of 2."
    assert all(each.light is GREEN for each in rest)


def test_first_model_is_judged_by_its_accuracy_alone() -> None:
    verdict = judge(comparison(champion=False), ReleaseRules())
    assert [each.rule for each in verdict.lights] == ["min_new_class_accuracy"] * 2 + [
        "min_accuracy",
        "max_calibration_error",
    ]
    assert verdict.overall is GREEN


def test_no_loss_is_green_even_if_no_loss_is_allowed() -> None:
    strict = ReleaseRules(
        max_loss_per_old_class_points=0,
        max_loss_of_old_classes_points=0,
        max_loss_per_hospital_points=0,
    )
    assert judge(comparison(), strict).overall is GREEN
    assert judge(comparison(lost=0.1), strict).overall is RED


def test_verdict_is_plain_data() -> None:
    plain = judge(comparison(), ReleaseRules()).as_plain()
    assert plain["overall"] == "green"
    assert type(plain["overall"]) is str and {type(each["light"]) for each in plain["lights"]} == {
        str
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_accuracy": 1.5},
        {"max_loss_per_old_class_points": -1},
        {"fewest_images": -1},
        {"max_los": 1},
        {"amber_margin": "much"},
    ],
)
def test_invalid_rules_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ReleaseRules(**wrong)


def test_judging_and_starting_jobs_need_neither_torch_nor_mlflow(
    modules_imported_by: Callable[[str], set[str]],
) -> None:
    names = ("release.rules", "release.__main__", "class_addition.__main__")
    modules = modules_imported_by("; ".join(f"import federation.{name}" for name in names))
    assert not modules & {"torch", "mlflow", "fastapi"}
