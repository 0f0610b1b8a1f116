from math import log
from typing import Any

import pytest
import torch

from tests.twin.loss_examples import (
    HEADS,
    LOGITS,
    OLD,
    ROWS,
    TEACHER,
    B,
    C,
    drawn,
    sigmoid,
    softmax,
)
from twin.losses import (
    HeadLoss,
    attention_distillation,
    classification,
    semantic_distillation,
    squared_distance,
)

WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.7, 1.3, 0.0])


def binary(logit: float, target: float) -> float:
    return -(target * log(sigmoid(logit)) + (1 - target) * log(1 - sigmoid(logit)))


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
