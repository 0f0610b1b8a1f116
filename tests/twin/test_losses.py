from math import exp, log
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from twin.losses import (
    HeadLoss,
    Weighting,
    adaptive_weights,
    attention_distillation,
    classification,
    gradient_magnitude,
    semantic_distillation,
    squared_distance,
)

B, C, OLD = 6, 5, 3
HEADS: tuple[HeadLoss, ...] = ("bce", "ce")
WEIGHTINGS: tuple[Weighting, ...] = ("paper_per_task", "lga_cumulative_clamped", "none")


def drawn(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LOGITS, TEACHER = drawn(B, C), drawn(B, OLD, seed=1)
ROWS = torch.tensor([0, 4, 2, 3, 1, 4])
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.7, 1.3, 0.0])


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


def softmax(values: list[float]) -> list[float]:
    total = sum(exp(value) for value in values)
    return [exp(value) / total for value in values]


def binary(logit: float, target: float) -> float:
    return -(target * log(sigmoid(logit)) + (1 - target) * log(1 - sigmoid(logit)))


# --- how far an image still is from its class ---


@pytest.mark.parametrize("head_loss", HEADS)
def test_the_magnitude_is_the_distance_of_the_true_class_from_certainty(
    head_loss: HeadLoss,
) -> None:
    expected = []
    for logits, row in zip(LOGITS.tolist(), ROWS.tolist(), strict=True):
        probability = sigmoid(logits[row]) if head_loss == "bce" else softmax(logits)[row]
        expected.append(abs(probability - 1))
    torch.testing.assert_close(gradient_magnitude(LOGITS, ROWS, head_loss), torch.tensor(expected))


@pytest.mark.parametrize("head_loss", HEADS)
def test_the_magnitude_is_the_gradient_at_the_true_logit_and_a_constant_itself(
    head_loss: HeadLoss,
) -> None:
    logits = LOGITS.clone().requires_grad_()
    magnitude = gradient_magnitude(logits, ROWS, head_loss)
    assert not magnitude.requires_grad
    loss = (
        classification(logits, ROWS, torch.ones(B), head_loss)
        * B
        * (C if head_loss == "bce" else 1)
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient.gather(1, ROWS[:, None])[:, 0].abs(), magnitude)


# --- adaptive weights ---


def test_paper_weights_of_a_batch_of_five_by_hand() -> None:
    magnitude, task = torch.tensor([0.2, 0.6, 0.5, 0.3, 0.9]), torch.tensor([0, 0, 1, 2, 2])
    found = adaptive_weights(magnitude, task, 2, 1.0, "paper_per_task")
    torch.testing.assert_close(found, torch.tensor([0.5, 1.5, 1.0, 0.5, 1.5]))


def test_paper_weights_raise_the_magnitude_to_the_exponent_before_the_mean() -> None:
    found = adaptive_weights(
        torch.tensor([0.25, 0.81, 0.36, 0.16]), torch.tensor([0, 0, 1, 1]), 1, 0.5, "paper_per_task"
    )
    torch.testing.assert_close(found, torch.tensor([0.5 / 0.7, 0.9 / 0.7, 0.6 / 0.5, 0.4 / 0.5]))


def test_cumulative_weights_of_a_batch_of_four_by_hand() -> None:
    magnitude, task = torch.tensor([0.2, 0.6, 0.4, 0.8]), torch.tensor([0, 0, 1, 1])
    found = adaptive_weights(magnitude, task, 1, 1.0, "lga_cumulative_clamped")
    torch.testing.assert_close(found, torch.tensor([0.5, 1.5, 0.4 / 0.6, 0.8 / 0.6]))


def test_the_cumulative_weight_of_the_first_task_has_two_terms_after_two_finished_tasks() -> None:
    magnitude, task = torch.tensor([0.4, 0.8, 0.6, 0.3]), torch.tensor([0, 0, 1, 2])
    found = adaptive_weights(magnitude, task, 2, 1.0, "lga_cumulative_clamped")
    expected = [0.4 / 0.6 + 0.4 / 0.6, 0.8 / 0.6 + 0.8 / 0.6, 0.6 / 0.6, 1.0]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_cumulative_weights_are_clamped_between_a_half_and_five() -> None:
    magnitude, task = (
        torch.tensor([0.01] + [0.9] * 3 + [0.9] + [0.001] * 19),
        torch.tensor([0] * 4 + [1] * 20),
    )
    found = adaptive_weights(magnitude, task, 1, 1.0, "lga_cumulative_clamped")
    assert float(found[0]) == 0.5
    assert float(found[4]) == 5
    assert float(found[5]) == 0.5


def slow_weights(
    magnitude: list[float], task: list[int], finished: int, exponent: float, weighting: Weighting
) -> list[float]:
    def mean_over(tasks: list[int]) -> float:
        members = [
            float(value**exponent)
            for value, group in zip(magnitude, task, strict=True)
            if group in tasks
        ]
        return sum(members) / len(members)

    weights = []
    for value, group in zip(magnitude, task, strict=True):
        if weighting == "paper_per_task" or group == finished:
            weight = value**exponent / mean_over([group])
        else:
            weight = sum(
                value**exponent / mean_over(list(range(last + 1)))
                for last in range(group, finished)
            )
        weights.append(weight if weighting == "paper_per_task" else min(5.0, max(0.5, weight)))
    return weights


@given(
    data=st.data(), finished=st.integers(1, 4), count=st.integers(1, 12), exponent=st.floats(0, 1)
)
@pytest.mark.parametrize("weighting", WEIGHTINGS[:2])
def test_weights_are_those_of_the_slow_loop(
    weighting: Weighting, data: st.DataObject, finished: int, count: int, exponent: float
) -> None:
    magnitude = data.draw(
        st.lists(st.floats(0.015625, 1, width=32), min_size=count, max_size=count)
    )
    task = data.draw(st.lists(st.integers(0, finished), min_size=count, max_size=count))
    found = adaptive_weights(
        torch.tensor(magnitude), torch.tensor(task), finished, exponent, weighting
    )
    torch.testing.assert_close(
        found,
        torch.tensor(slow_weights(magnitude, task, finished, exponent, weighting)),
        rtol=1e-4,
        atol=1e-5,
    )


@given(
    task=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    exponent=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_paper_weights_have_mean_1_in_every_group(
    task: list[int], exponent: float, seed: int
) -> None:
    magnitude = torch.rand(len(task), generator=torch.Generator().manual_seed(seed)).clamp_min(0.01)
    found = adaptive_weights(magnitude, torch.tensor(task), 3, exponent, "paper_per_task")
    for group in set(task):
        assert float(found[torch.tensor(task) == group].mean()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_without_a_finished_task_all_weights_are_1(weighting: Weighting) -> None:
    assert (
        adaptive_weights(
            torch.rand(4), torch.zeros(4, dtype=torch.int64), 0, 0.0, weighting
        ).tolist()
        == [1.0] * 4
    )


def test_exponent_0_and_no_weighting_give_ones() -> None:
    magnitude, task = torch.tensor([0.0, 0.3, 0.9]), torch.tensor([0, 0, 1])
    assert adaptive_weights(magnitude, task, 1, 0.0, "paper_per_task").tolist() == [1.0] * 3
    assert adaptive_weights(magnitude, task, 1, 0.7, "none").tolist() == [1.0] * 3


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_images_that_are_all_certain_have_finite_weights(weighting: Weighting) -> None:
    found = adaptive_weights(torch.zeros(4), torch.tensor([0, 0, 1, 1]), 1, 0.5, weighting)
    assert bool(torch.isfinite(found).all())


# --- classification, L_CB ---


@pytest.mark.parametrize("head_loss", HEADS)
def test_classification_is_the_weighted_mean_of_the_slow_loop(head_loss: HeadLoss) -> None:
    total = 0.0
    for logits, row, weight in zip(LOGITS.tolist(), ROWS.tolist(), WEIGHTS.tolist(), strict=True):
        if head_loss == "ce":
            each = -log(softmax(logits)[row])
        else:
            each = sum(binary(logit, float(index == row)) for index, logit in enumerate(logits)) / C
        total += weight * each
    assert float(classification(LOGITS, ROWS, WEIGHTS, head_loss)) == pytest.approx(
        total / B, rel=1e-5
    )


def test_unit_weights_give_plain_cross_entropy() -> None:
    expected = torch.nn.functional.cross_entropy(LOGITS, ROWS)
    torch.testing.assert_close(classification(LOGITS, ROWS, torch.ones(B), "ce"), expected)
    one_hot = torch.nn.functional.one_hot(ROWS, C).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(LOGITS, one_hot)
    torch.testing.assert_close(classification(LOGITS, ROWS, torch.ones(B), "bce"), expected)


@pytest.mark.parametrize("head_loss", HEADS)
def test_losses_are_float32_and_finite_for_half_precision_and_huge_logits(
    head_loss: HeadLoss,
) -> None:
    huge = (LOGITS * 1e4).bfloat16()
    for loss in (
        classification(huge, ROWS, WEIGHTS, head_loss),
        semantic_distillation(huge, huge[:, :OLD], ROWS, WEIGHTS, head_loss),
    ):
        assert loss.dtype == torch.float32
        assert bool(torch.isfinite(loss))


# --- semantic distillation, L_SD ---


@pytest.mark.parametrize("head_loss", HEADS)
def test_semantic_distillation_is_the_weighted_mean_of_the_slow_loop(head_loss: HeadLoss) -> None:
    total = 0.0
    for logits, old, row, weight in zip(
        LOGITS.tolist(), TEACHER.tolist(), ROWS.tolist(), WEIGHTS.tolist(), strict=True
    ):
        if head_loss == "bce":
            target = [sigmoid(value) for value in old] + [
                float(index == row) for index in range(OLD, C)
            ]
            each = sum(binary(logit, goal) for logit, goal in zip(logits, target, strict=True)) / C
        else:
            target = softmax(old) + [float(index == row) for index in range(OLD, C)]
            each = sum(
                p * log(p / q) for p, q in zip(target, softmax(logits), strict=True) if p > 0
            )
        total += weight * each
    assert float(semantic_distillation(LOGITS, TEACHER, ROWS, WEIGHTS, head_loss)) == pytest.approx(
        total / B, rel=1e-5
    )


def test_the_target_of_a_new_class_is_1_and_of_the_old_ones_what_the_teacher_says() -> None:
    logits = torch.zeros(1, C, requires_grad=True)
    loss = semantic_distillation(logits, TEACHER[:1], torch.tensor([4]), torch.ones(1), "bce")
    loss.backward()
    assert logits.grad is not None
    # The gradient of binary cross-entropy at logit 0 is (1/2 - target) / C: the target can be read
    # from it.
    target = 0.5 - C * logits.grad[0]
    torch.testing.assert_close(
        target, torch.cat([torch.sigmoid(TEACHER[0]), torch.tensor([0.0, 1.0])])
    )


def test_distillation_of_equal_models_is_0() -> None:
    assert float(semantic_distillation(LOGITS, LOGITS, ROWS, WEIGHTS, "ce")) == pytest.approx(
        0, abs=1e-6
    )
    student = LOGITS.clone().requires_grad_()
    # Binary cross-entropy keeps the teacher's own entropy.
    loss = semantic_distillation(student, LOGITS, ROWS, WEIGHTS, "bce")
    loss.backward()
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-7


@pytest.mark.parametrize("head_loss", HEADS)
def test_the_teacher_gets_no_gradient(head_loss: HeadLoss) -> None:
    student, teacher = LOGITS.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    loss = semantic_distillation(student, teacher, ROWS, WEIGHTS, head_loss)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert float(student.grad.abs().max()) > 0


# --- attention distillation, L_AD ---

MAPS, OLD_MAPS = drawn(B, 3, 4, seed=2).relu(), drawn(B, 3, 4, seed=3).relu()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_attention_distillation_is_the_weighted_mean_of_the_slow_loop(reduction: Any) -> None:
    total = 0.0
    for own, old, weight in zip(
        MAPS.flatten(1).tolist(), OLD_MAPS.flatten(1).tolist(), WEIGHTS.tolist(), strict=True
    ):
        own_norm, old_norm = (sum(value**2 for value in values) ** 0.5 for values in (own, old))
        each = sum(abs(b / old_norm - a / own_norm) for a, b in zip(own, old, strict=True))
        total += weight * each / (12 if reduction == "mean" else 1)
    found = attention_distillation(MAPS, OLD_MAPS, WEIGHTS, reduction)
    assert float(found) == pytest.approx(total / B, rel=1e-5)


@pytest.mark.parametrize("factor", [1.0, 1e-4, 1e4])
def test_maps_of_one_direction_have_no_distance(factor: float) -> None:
    assert float(attention_distillation(MAPS, MAPS * factor, WEIGHTS)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("own", "old", "expected"), [(0.0, 0.0, 0.0), (0.0, 1.0, 12**0.5), (1.0, 0.0, 12**0.5)]
)
def test_a_map_of_zeros_counts_as_the_zero_vector(own: float, old: float, expected: float) -> None:
    maps = torch.full((2, 3, 4), own, requires_grad=True)
    loss = attention_distillation(maps, torch.full((2, 3, 4), old), torch.ones(2))
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    loss.backward()
    assert maps.grad is not None
    assert bool(torch.isfinite(maps.grad).all())


def test_a_map_of_zeros_gives_a_finite_gradient_through_the_rectifier() -> None:
    before = torch.full((1, 3, 4), -1.0, requires_grad=True)
    loss = attention_distillation(torch.relu(before), OLD_MAPS[:1], torch.ones(1))
    loss.backward()
    assert before.grad is not None
    assert before.grad.tolist() == torch.zeros(1, 3, 4).tolist()


def test_attention_teaches_the_student_and_not_the_teacher() -> None:
    own, old = MAPS.clone().requires_grad_(), OLD_MAPS.clone().requires_grad_()
    attention_distillation(own, old, WEIGHTS).backward()
    assert old.grad is None
    assert own.grad is not None
    assert float(own.grad.abs().max()) > 0
    assert float(own.grad[5].abs().max()) == 0  # its weight is 0


def test_the_squared_distance_sums_over_all_weights() -> None:
    values = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}
    others = {"a": torch.tensor([0.0, 4.0]), "b": torch.tensor(0.0), "c": torch.tensor(9.0)}
    assert float(squared_distance(values, others)) == 1 + 4 + 9
