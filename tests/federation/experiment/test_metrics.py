from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, recall_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from federation.experiment.metrics import (
    accuracy,
    accuracy_per_class,
    average_accuracy,
    calibration_error,
    confusion_matrix,
    count_detections,
    forgetting,
    macro_f1,
)

pairs = st.integers(1, 6).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(
            st.tuples(st.integers(0, classes - 1), st.integers(-1, classes + 2)),
            min_size=1,
            max_size=40,
        ),
    )
)


def matrix_of(truth: list[int], predicted: list[int], classes: int) -> np.ndarray:
    return confusion_matrix(np.array(truth, np.int64), np.array(predicted, np.int64), classes)


@given(case=pairs)
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(
    case: tuple[int, list[tuple[int, int]]],
) -> None:
    classes, both = case
    truth = [true for true, _ in both]
    predicted = [guess if 0 <= guess < classes else 99 for _, guess in both]
    confusion = matrix_of(truth, [guess for _, guess in both], classes)
    names = list(range(classes))
    assert accuracy(confusion) == pytest.approx(accuracy_score(truth, predicted))
    occurring = sorted({*truth, *predicted} - {99})
    assert macro_f1(confusion) == pytest.approx(
        f1_score(truth, predicted, labels=occurring, average="macro", zero_division=0)
    )
    recalls = recall_score(truth, predicted, labels=names, average=None, zero_division=0)
    assert accuracy_per_class(confusion) == pytest.approx(recalls)
    assert (
        confusion.tolist() == sklearn_confusion(truth, predicted, labels=[*names, 99])[:-1].tolist()
    )


def test_a_class_without_images_and_predictions_does_not_count() -> None:
    confusion = matrix_of([0, 0, 1, 2], [0, 0, 1, 2], 4)
    assert (accuracy(confusion), macro_f1(confusion)) == (1.0, 1.0)


def test_a_class_that_is_never_named_counts_0() -> None:
    confusion = matrix_of([0, 0, 1, 1], [0, 0, 0, 0], 2)
    assert macro_f1(confusion) == pytest.approx((2 * 2 / (2 * 2 + 2) + 0) / 2)


def test_naming_a_class_that_is_not_seen_yet_is_wrong_and_of_no_seen_class() -> None:
    confusion = matrix_of([0, 1, 1], [0, 7, -1], 2)
    assert confusion.tolist() == [[1, 0, 0], [0, 0, 2]]
    assert accuracy(confusion) == pytest.approx(1 / 3)
    assert accuracy_per_class(confusion).tolist() == [1, 0]


def test_no_images_give_zeros() -> None:
    confusion = matrix_of([], [], 2)
    assert (accuracy(confusion), macro_f1(confusion)) == (0, 0)


# --- averages of the published rows (FedKA, CIFAR-100, heterogeneity 0.6) ---


@pytest.mark.parametrize(
    ("row", "printed"),
    [
        ((77.70, 72.60, 73.13, 72.62, 72.86, 67.80, 68.83, 63.85, 61.26, 60.31), 69.096),
        ((78.90, 76.35, 75.63, 75.70, 73.58, 69.62, 69.89, 65.31, 63.33, 61.15), 70.946),
    ],
    ids=["LGA", "FedKA"],
)
def test_the_average_is_made_like_that_of_the_published_tables(
    row: tuple[float, ...], printed: float
) -> None:
    assert average_accuracy(row) == pytest.approx(printed, abs=5e-4)


# --- forgetting ---

MATRIX = [[0.9], [0.7, 0.8], [0.6, 0.85, 0.5]]


def test_forgetting_of_three_tasks_by_hand() -> None:
    # task 0: best 0.9, at the end 0.6; task 1: best before the last task 0.8, at the end 0.85: it
    # gained
    assert forgetting(MATRIX, [10, 10, 10]) == pytest.approx((0.3 - 0.05) / 2)
    assert forgetting(MATRIX, [30, 10, 5]) == pytest.approx((30 * 0.3 - 10 * 0.05) / 40)


def test_the_best_accuracy_may_lie_in_the_middle() -> None:
    assert forgetting([[0.5], [0.9, 0.8], [0.4, 0.7, 0.6]], [1, 1, 1]) == pytest.approx(
        (0.5 + 0.1) / 2
    )


@pytest.mark.parametrize("matrix", [[], [[0.9]]])
def test_one_task_cannot_be_forgotten(matrix: list[list[float]]) -> None:
    assert forgetting(matrix, [10]) is None


def test_forgetting_nothing_is_0() -> None:
    assert forgetting([[0.9], [0.9, 0.8]], [5, 5]) == 0


# --- detections ---


def seen(twin: str, signal: bool, is_boundary: bool, knows_nothing: bool = False) -> dict[str, Any]:
    return {
        "twin": twin,
        "signal": signal,
        "is_boundary": is_boundary,
        "knows_nothing": knows_nothing,
    }


def record(task: int, *observations: dict[str, Any]) -> dict[str, Any]:
    return {"task": task, "observations": list(observations)}


def test_hits_late_hits_misses_and_false_alarms_are_counted() -> None:
    rounds = [
        record(
            0, seen("a", True, True, True), seen("b", True, True, True), seen("c", True, True, True)
        ),
        record(
            0, seen("a", False, False), seen("b", True, False), seen("c", False, False)
        ),  # b: a false alarm
        record(
            1, seen("a", True, True), seen("b", False, True), seen("c", False, True)
        ),  # a: at once
        record(
            1, seen("a", False, False), seen("b", True, True), seen("c", False, True)
        ),  # b: late; c: never
        record(
            1, seen("a", True, False), seen("b", False, False), seen("c", False, True)
        ),  # a: a false alarm
    ]
    plain = count_detections(rounds).as_plain()
    assert plain == {
        "boundaries": 3,
        "noticed_at_once": 1,
        "noticed_late": 1,
        "missed": 1,
        "false_alarms": 2,
        "twin_tasks": 6,
        "hit_rate": pytest.approx(1 / 3),
        "false_alarms_per_twin_and_task": pytest.approx(2 / 6),
    }


def test_the_first_classes_of_all_are_no_boundary() -> None:
    count = count_detections([record(0, seen("a", True, True, True))])
    assert count.as_plain() == {
        "boundaries": 0,
        "noticed_at_once": 0,
        "noticed_late": 0,
        "missed": 0,
        "false_alarms": 0,
        "twin_tasks": 0,
        "hit_rate": None,
        "false_alarms_per_twin_and_task": None,
    }


def test_a_signal_that_repeats_itself_counts_once() -> None:
    rounds = [record(1, seen("a", True, True)), record(1, seen("a", True, True))]
    count = count_detections(rounds)
    assert (count.boundaries, count.noticed_at_once, count.noticed_late, count.false_alarms) == (
        1,
        1,
        0,
        0,
    )


def test_calibration_error_of_three_bins_by_hand() -> None:
    confidence = np.array([0.2, 0.3, 0.6, 0.9, 1.0])
    right = np.array([False, True, True, True, False])
    # up to 1/3: accuracy 0.5, confidence 0.25; up to 2/3: 1 and 0.6; up to 1: 0.5 and 0.95
    assert calibration_error(confidence, right, 3) == pytest.approx((2 * 0.25 + 0.4 + 2 * 0.45) / 5)


def test_calibration_error_of_a_model_that_is_as_sure_as_it_is_right_is_0() -> None:
    assert calibration_error(np.full(4, 0.75), np.array([True, True, True, False])) == 0
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0
    assert calibration_error(np.empty(0), np.empty(0, bool)) is None
