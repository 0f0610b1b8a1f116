from collections.abc import Callable
from dataclasses import replace
from math import exp, log
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy import float64
from torch import Tensor
from torch.nn import functional

from federation.methods.bic import BiC, fit_correction, fold_correction, mean_correction
from federation.methods.fedavg import FedAvg
from incremental.network import build_network
from twin.objective import HoldsOut, LocalContext


def softmax(values: list[float]) -> list[float]:
    total = sum(exp(value) for value in values)
    return [exp(value) / total for value in values]


def test_the_loss_is_the_slow_loop_of_equations_1_to_3(scene: Any) -> None:
    logits, old, rows = (
        scene.logits().tolist(),
        scene.old_logits().tolist(),
        scene.batch.rows.tolist(),
    )
    fit = -sum(log(softmax(o)[y]) for o, y in zip(logits, rows, strict=True)) / len(rows)
    kept = 0.0
    for o, t in zip(logits, old, strict=True):
        p, q = softmax([value / 2 for value in t]), softmax([value / 2 for value in o[:3]])
        kept += sum(a * log(a / b) for a, b in zip(p, q, strict=True)) / len(rows)
    terms = scene.terms(BiC())
    assert terms["classification"].item() == pytest.approx(2 / 5 * fit, rel=1e-5)
    assert terms["semantic"].item() == pytest.approx(3 / 5 * kept, rel=1e-4)


@pytest.mark.parametrize("head_loss", ["bce", "ce"])
def test_without_a_teacher_it_is_plain_cross_entropy(scene: Any, head_loss: Any) -> None:
    context = scene.without_teacher
    assert torch.equal(
        scene.total(BiC(head_loss=head_loss), context),
        scene.total(FedAvg(head_loss=head_loss), context),
    )


def test_in_the_first_task_it_is_fedavg_with_memory_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any]
) -> None:
    found, expected = play(BiC(), rounds=2), play(FedAvg(memory=True), rounds=2)
    assert same(found.server.weights, expected.server.weights)


@pytest.fixture
def biased() -> tuple[Tensor, ...]:
    """Logits of 60 images of five classes whose two new ones are too large: times 2 and + 1.5."""
    generator = torch.Generator().manual_seed(4)
    rows = torch.arange(5).repeat(12)
    logits = torch.randn(60, 5, generator=generator) + 2 * functional.one_hot(rows, 5)
    logits[:, 3:] = 2 * logits[:, 3:] + 1.5
    return logits, rows


def objective(
    logits: Tensor, rows: Tensor, alpha: float | float64, beta: float | float64, penalty: float
) -> float | float64:
    corrected = torch.cat([logits[:, :3], alpha * logits[:, 3:] + beta], 1).double()
    return float(functional.cross_entropy(corrected, rows)) + penalty * ((alpha - 1) ** 2 + beta**2)


def test_the_fit_is_the_best_of_a_fine_grid(biased: tuple[Tensor, ...]) -> None:
    logits, rows = biased
    alpha, beta = fit_correction(logits, rows, 3, 0.01)
    grid = [(a, b) for a in np.arange(0.1, 2, 0.05) for b in np.arange(-3, 3, 0.05)]
    best = min(grid, key=lambda pair: objective(logits, rows, *pair, 0.01))  # type: ignore[call-arg]  # wrong on purpose
    assert objective(logits, rows, alpha, beta, 0.01) <= objective(logits, rows, *best, 0.01)
    assert (alpha, beta) == pytest.approx(best, abs=0.06)


def test_the_fit_quietens_classes_that_are_too_loud_and_more_old_images_are_named_rightly(
    biased: tuple[Tensor, ...],
) -> None:
    logits, rows = biased
    alpha, beta = fit_correction(logits, rows, 3, 0.001)
    corrected = torch.cat([logits[:, :3], alpha * logits[:, 3:] + beta], 1)
    assert 0 < alpha < 1
    right = [int((values.argmax(1) == rows)[rows < 3].sum()) for values in (logits, corrected)]
    assert right[1] > right[0]


def test_a_fit_to_images_that_are_all_right_stays_finite() -> None:
    logits = 5 * functional.one_hot(torch.tensor([0, 3]), 5).float()
    alpha, beta = fit_correction(logits, torch.tensor([0, 3]), 3, 0.01)
    assert 0.5 < alpha < 3 and abs(beta) < 3


def test_folding_is_exact_for_the_linear_head_and_leaves_old_rows_alone(scene: Any) -> None:
    weights = scene.context.global_weights
    folded = fold_correction(weights, 0.7, -0.4, 3)
    before, after = (
        build_network(scene.network.config, each).eval()(scene.batch.images).logits
        for each in (weights, folded)
    )
    assert torch.equal(folded["head.weight"][:3], weights["head.weight"][:3])
    assert torch.equal(folded["head.bias"][:3], weights["head.bias"][:3])
    torch.testing.assert_close(after[:, :3], before[:, :3])
    torch.testing.assert_close(after[:, 3:], 0.7 * before[:, 3:] - 0.4)


def test_the_correction_that_changes_nothing_folds_to_the_same_bits(scene: Any) -> None:
    weights = scene.context.global_weights
    assert all(
        torch.equal(value, weights[name])
        for name, value in fold_correction(weights, 1.0, 0.0, 3).items()
    )


def sent(alpha: float, beta: float, images: int = 10, first: int = 3) -> dict[str, Tensor]:
    return {
        "bias_correction": torch.tensor([alpha, beta]),
        "bias_support": torch.tensor([images, first]),
    }


def test_the_server_counts_each_twin_by_its_held_out_images() -> None:
    assert mean_correction([sent(0.5, -1.0, 10), sent(0.9, 1.0, 30), {}], 5) == pytest.approx(
        (0.8, 0.5, 3)
    )
    assert mean_correction([{}], 5) is None


@pytest.mark.parametrize(
    "wrong",
    [
        sent(-0.5, 0.0),
        sent(99.0, 0.0),
        sent(0.5, -99.0),
        sent(0.5, 0.0, images=0),
        sent(0.5, 0.0, first=0),
        sent(0.5, 0.0, first=5),
        {"bias_correction": torch.tensor([0.5, 0.0])},
        {**sent(0.5, 0.0), "bias_correction": torch.tensor([0.5])},
        {**sent(0.5, 0.0), "bias_support": torch.tensor([1.0, 3.0])},
    ],
)
def test_what_is_no_correction_is_left_out(wrong: dict[str, Tensor]) -> None:
    assert mean_correction([wrong], 5) is None
    assert mean_correction([wrong, sent(0.75, 0.5)], 5) == pytest.approx((0.75, 0.5, 3))


def test_a_first_new_row_that_is_not_that_of_most_is_left_out() -> None:
    assert mean_correction(
        [sent(0.5, 0.0, first=4), sent(0.75, 0.5), sent(0.75, 0.5)], 5
    ) == pytest.approx((0.75, 0.5, 3))


def with_held_out(context: LocalContext, shown: Any) -> LocalContext:
    return replace(context, held_out=lambda: shown)


def test_a_twin_sends_the_fit_to_what_it_held_out(scene: Any) -> None:
    shown = ((scene.batch.images * 255).round() / 255, scene.batch.rows)
    context = with_held_out(scene.context, shown)
    upload, _ = BiC().finish_local(scene.network, context)
    with torch.no_grad():
        expected = fit_correction(scene.network.eval()(shown[0]).logits, shown[1], 3, 0.01)
    assert upload["bias_correction"].tolist() == pytest.approx(expected, rel=1e-3)
    assert upload["bias_support"].tolist() == [8, 3]


def test_a_twin_that_held_out_only_one_side_or_nothing_or_has_no_teacher_sends_nothing(
    scene: Any,
) -> None:
    images, rows = scene.batch.images, scene.batch.rows
    only_new = with_held_out(scene.context, (images[rows >= 3], rows[rows >= 3]))
    only_old = with_held_out(scene.context, (images[rows < 3], rows[rows < 3]))
    no_teacher = with_held_out(scene.without_teacher, (images, rows))
    nothing = with_held_out(scene.context, (images[:0], rows[:0]))
    for context in (only_new, only_old, no_teacher, nothing, scene.context):
        assert BiC().finish_local(scene.network, context)[0] == {}


def test_it_alone_asks_for_a_part_to_be_held_out() -> None:
    assert isinstance(BiC(), HoldsOut) and BiC().held_out_fraction == 0.1
    assert not isinstance(FedAvg(), HoldsOut)


def test_repeatable_over_growth_of_the_head_and_nothing_undeclared_leaves(
    play: Callable[..., Any], same: Callable[..., Any], assert_wall: Callable[..., Any]
) -> None:
    first, second = (play(BiC()) for _ in range(2))
    assert len(first.server.task_begins) > 1
    assert same(first.server.weights, second.server.weights)
    assert any("semantic" in update.metrics for update in first.updates)
    assert_wall(first, {"bias_correction", "bias_support"})
    assert bool(BiC.uploads)


def test_the_global_model_is_the_corrected_mean(play: Callable[..., Any]) -> None:
    played = play(BiC(mean="equal"), rounds=3)
    updates = [update for update in played.updates if update.round == 2]
    alpha, beta, first = cast(
        Any, mean_correction([update.upload for update in updates], len(played.server.class_names))
    )
    assert first == len(played.proxy.old_model.class_names)
    mean = torch.stack([update.weights["head.bias"] for update in updates]).double().mean(0).float()
    torch.testing.assert_close(played.server.weights["head.bias"][:first], mean[:first])
    torch.testing.assert_close(
        played.server.weights["head.bias"][first:], alpha * mean[first:] + beta
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.0},
        {"held_out_fraction": 0.6},
        {"held_out_fraction": -0.1},
        {"penalty": 0.0},
    ],
)
def test_a_value_out_of_range_says_what_is_allowed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        BiC(**wrong)


def test_a_twin_keeps_the_part_out_of_training_and_shows_it_to_the_method(
    play: Callable[..., Any], assert_wall: Callable[..., Any]
) -> None:
    with_part, without = play(BiC()), play(BiC(held_out_fraction=0.0))
    assert with_part.updates[0].num_images == without.updates[0].num_images  # no teacher yet
    assert with_part.updates[-1].num_images < without.updates[-1].num_images
    assert_wall(with_part, {"bias_correction", "bias_support"})
    assert not any(update.upload for update in without.updates)
