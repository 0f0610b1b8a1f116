import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.twin.loss_examples import HEADS, LOGITS, ROWS, B, C, sigmoid, softmax
from twin.losses import HeadLoss, Weighting, adaptive_weights, classification, gradient_magnitude

WEIGHTINGS: tuple[Weighting, ...] = ("paper_per_task", "lga_cumulative_clamped", "none")


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
def test_images_with_zero_gradient_have_finite_weights(weighting: Weighting) -> None:
    found = adaptive_weights(torch.zeros(4), torch.tensor([0, 0, 1, 1]), 1, 0.5, weighting)
    assert bool(torch.isfinite(found).all())
