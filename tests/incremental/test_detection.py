from math import log
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from incremental.detection import (
    ENTROPY_WITHOUT_CLASSES,
    MIN_OWN_IMAGES,
    QUANTILE_LEVELS,
    DetectionConfig,
    Evidence,
    chance_distance,
    detect,
    distribution_distance,
    entropy,
)

NONE = np.empty(0, np.float32)
CALIBRATED = DetectionConfig(rule="calibrated")
logits = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 12)),
    elements=st.floats(-1000, 1000, width=32),
)


def nats(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


def jump_evidence(mean: float, previous: float | None, classes: int = 3) -> Evidence:
    return Evidence(classes, nats([mean] * 4), NONE, NONE, previous)


@given(values=logits)
def test_entropy_lies_between_0_and_ln_c(values: NDArray[np.float32]) -> None:
    found = entropy(values)
    assert found.dtype == np.float32
    assert bool((found >= 0).all())
    assert bool((found <= log(values.shape[1]) + 1e-5).all())


@given(values=logits)
def test_entropy_is_that_of_the_softmax(values: NDArray[np.float32]) -> None:
    for found, row in zip(entropy(values), values.astype(np.float64), strict=True):
        exponentials = [np.exp(value - max(row)) for value in row]
        expected = 0.0
        for each in exponentials:
            share = each / sum(exponentials)
            expected -= share * log(share) if share > 0 else 0.0
        assert found == pytest.approx(expected, abs=1e-4)


def test_uniform_logits_over_3_classes_have_an_entropy_of_ln_3() -> None:
    assert entropy(np.zeros((2, 3), np.float32)) == pytest.approx([1.0986] * 2, abs=1e-4)


def test_a_model_without_classes_makes_everything_new() -> None:
    assert entropy(np.zeros((2, 0), np.float32)).tolist() == [ENTROPY_WITHOUT_CLASSES] * 2
    for config in (DetectionConfig(), CALIBRATED):
        assert detect(Evidence(0, nats([ENTROPY_WITHOUT_CLASSES]), NONE, NONE), config).signal
        assert not detect(Evidence(0, NONE, NONE, NONE), config).signal


def test_uniform_logits_over_3_classes_signal_at_four_tenths_of_a_nat_and_not_at_1_2() -> None:
    uniform = float(entropy(np.zeros((1, 3), np.float32))[0])
    assert detect(jump_evidence(uniform, 0.0), DetectionConfig(jump_fraction=0.364)).signal
    assert not detect(
        jump_evidence(uniform, 0.0), DetectionConfig(jump_fraction=0.521, reference_classes=10)
    ).signal


def test_a_threshold_that_three_classes_cannot_reach_is_an_error_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"1\.200 nats.*1\.099"):
        DetectionConfig(jump_fraction=0.521, reference_classes=10).check_reachable(3)


@pytest.mark.parametrize(
    ("fraction", "reference", "classes"),
    [(0.364, 3, 3), (0.364, None, 3), (0.521, 10, 10), (0.521, None, 2)],
)
def test_a_threshold_below_the_largest_entropy_can_be_reached(
    fraction: float, reference: int | None, classes: int
) -> None:
    DetectionConfig(jump_fraction=fraction, reference_classes=reference).check_reachable(classes)


@pytest.mark.parametrize("config", [DetectionConfig(), CALIBRATED])
def test_one_class_has_no_entropy_and_no_rule_that_can_fire(config: DetectionConfig) -> None:
    with pytest.raises(ValueError, match="1 class"):
        config.check_reachable(1)


def test_thresholds_are_those_of_the_paper() -> None:
    assert DetectionConfig(jump_fraction=0.521).jump_nats(10) == pytest.approx(1.2, abs=1e-3)
    assert DetectionConfig(jump_fraction=0.364).jump_nats(3) == pytest.approx(0.4, abs=1e-3)
    assert DetectionConfig(jump_fraction=0.521, reference_classes=10).jump_nats(
        100
    ) == pytest.approx(1.2, abs=1e-3)


def test_the_first_mean_of_a_twin_counts_as_a_rise_from_zero() -> None:
    detection = detect(jump_evidence(0.6, None), DetectionConfig(jump_fraction=0.364))
    assert detection.signal
    assert detection.statistic == pytest.approx(0.6)
    assert detection.threshold == pytest.approx(0.3999, abs=1e-4)


def test_unchanged_entropies_give_no_signal() -> None:
    config = DetectionConfig(jump_fraction=0.364)
    first = detect(jump_evidence(0.9, 0.1), config)
    assert first.signal
    assert not detect(jump_evidence(0.9, first.mean_nats), config).signal


def test_a_fall_of_entropy_gives_no_signal() -> None:
    assert not detect(jump_evidence(0.1, 1.0), DetectionConfig(jump_fraction=0.364)).signal


def test_arrivals_come_before_images_of_the_current_task() -> None:
    evidence = Evidence(3, nats([1.0]), nats([0.1]), NONE, 0.1)
    assert detect(evidence, DetectionConfig(jump_fraction=0.364)).mean_nats == pytest.approx(1.0)
    nothing_new = Evidence(3, NONE, nats([0.1]), NONE, 0.1)
    assert detect(nothing_new, DetectionConfig(jump_fraction=0.364)).mean_nats == pytest.approx(0.1)


@pytest.mark.parametrize("config", [DetectionConfig(), CALIBRATED])
def test_no_images_give_no_signal(config: DetectionConfig) -> None:
    detection = detect(Evidence(3, NONE, NONE, nats([0.5] * 30), 0.5), config)
    assert (detection.signal, detection.mean_nats, detection.statistic) == (False, None, None)


def test_the_calibrated_rule_rarely_fires_on_equal_distributions() -> None:
    rng = np.random.default_rng(1)
    fired = [
        detect(
            Evidence(10, nats(rng.gamma(2, 0.3, 40)), NONE, nats(rng.gamma(2, 0.3, 30))), CALIBRATED
        ).signal
        for _ in range(200)
    ]
    assert sum(fired) < 10


def test_the_calibrated_rule_always_fires_on_shifted_distributions() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        known, new = nats(rng.gamma(2, 0.1, 30)), nats(0.5 + rng.gamma(2, 0.3, 40))
        assert detect(Evidence(10, new, NONE, known), CALIBRATED).signal


def test_a_handful_of_images_gives_no_alarm() -> None:
    known = nats(np.linspace(0.1, 0.5, 30))
    assert not detect(Evidence(10, nats([2.0, 2.1, 2.2]), NONE, known), CALIBRATED).signal
    assert detect(Evidence(10, nats(np.linspace(2.0, 2.2, 40)), NONE, known), CALIBRATED).signal


@pytest.mark.parametrize("count", [1, 40])
def test_images_with_unusually_low_entropy_are_detected_too(count: int) -> None:
    known, sure = nats(np.linspace(1.0, 1.5, 60)), nats(np.linspace(0.0, 0.1, count))
    detection = detect(Evidence(10, sure, NONE, known), CALIBRATED)
    assert detection.statistic == 1
    assert detection.signal == (count == 40)


def test_a_small_shift_gives_no_signal_with_any_number_of_images() -> None:
    known, new = nats(np.linspace(0, 1, 20_000)), nats(np.linspace(0.1, 1.1, 20_000))
    detection = detect(Evidence(10, new, NONE, known), CALIBRATED)
    assert detection.statistic == pytest.approx(0.1, abs=1e-3)
    assert detection.threshold == CALIBRATED.shift_margin
    assert not detection.signal


def test_a_twin_without_a_history_uses_that_of_the_federation() -> None:
    new = nats(np.linspace(2.0, 2.2, 40))
    usual = nats(np.quantile(np.linspace(0.1, 0.5, 100), QUANTILE_LEVELS))
    assert not detect(Evidence(10, new, NONE, NONE), CALIBRATED).signal
    assert detect(
        Evidence(10, new, NONE, NONE, usual_elsewhere=usual, images_elsewhere=100), CALIBRATED
    ).signal
    for count, signal in ((MIN_OWN_IMAGES - 1, True), (MIN_OWN_IMAGES, False)):
        own = nats(np.linspace(2.0, 2.2, count))
        evidence = Evidence(10, new, NONE, own, usual_elsewhere=usual, images_elsewhere=100)
        assert detect(evidence, CALIBRATED).signal == signal


def test_the_federations_quantiles_of_the_same_distribution_give_no_alarm() -> None:
    rng = np.random.default_rng(3)
    usual = nats(np.quantile(rng.gamma(2, 0.3, 400), QUANTILE_LEVELS))
    fired = [
        detect(
            Evidence(
                10,
                nats(rng.gamma(2, 0.3, 60)),
                NONE,
                NONE,
                usual_elsewhere=usual,
                images_elsewhere=400,
            ),
            CALIBRATED,
        ).signal
        for _ in range(200)
    ]
    assert sum(fired) < 10


@given(
    values=st.lists(st.integers(0, 6), min_size=1, max_size=20),
    others=st.lists(st.integers(0, 6), min_size=1, max_size=20),
)
def test_the_distance_of_two_distributions_is_that_of_kolmogorov_and_smirnov(
    values: list[int], others: list[int]
) -> None:
    expected = max(
        abs(
            sum(value <= at for value in values) / len(values)
            - sum(other <= at for other in others) / len(others)
        )
        for at in range(7)
    )
    assert distribution_distance(nats(values), nats(others)) == pytest.approx(expected)


def test_the_distance_that_chance_allows_falls_with_the_number_of_images() -> None:
    assert chance_distance(100, 100, 0.05) == pytest.approx(
        1.358 * (200 / 10_000) ** 0.5, abs=1e-3
    )  # the tables' c(0.05) = 1.358
    distances = [chance_distance(count, 50, 0.001) for count in (1, 10, 100, 1000)]
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"jump_fraction": 1.2}, "entropy never exceeds ln C"),
        ({"jump_fraction": 0.0}, "jump_fraction is 0.0"),
        ({"shift_margin": 1.0}, "shift_margin is 1.0"),
        ({"false_alarm_chance": 0.5}, "false_alarm_chance is 0.5"),
        ({"reference_classes": 1}, "reference_classes is 1"),
        ({"sample": 3}, "sample is 3"),
        ({"rule": "oracle"}, "entropy_jump"),
        ({"jump_fractoin": 0.4}, "jump_fractoin"),
    ],
)
def test_an_impossible_rule_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        DetectionConfig(**wrong)


def test_by_name_fires_for_any_arrival_and_nothing_else() -> None:
    by_name = DetectionConfig(rule="by_name")
    sure = nats([0.0] * 4)
    assert detect(Evidence(3, sure, NONE, sure), by_name).signal
    assert detect(Evidence(3, NONE, nats([1.0] * 4), sure, 0.0), by_name).signal is False
    by_name.check_reachable(1)
