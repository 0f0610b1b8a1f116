from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from federation.methods.fedavg import FedAvg
from federation.methods.fedka import FedKA
from federation.methods.glfc import GLFC
from federation.methods.lga import LGA
from federation.methods.prototypes import score_on_perturbed_prototypes, score_on_prototypes
from federation.server import ServerState
from incremental.inference import features_of
from incremental.network import build_network
from incremental.reconstruction import ReconstructionConfig
from physical.batch import Batch

WEIGHTINGS = ("lga_cumulative_clamped", "paper_per_task", "none")


def weights_by_hand(
    gradients: list[float], tasks: list[int], finished: int, exponent: float, weighting: Any
) -> list[float]:
    """Image by image: the code's growing groups, or one group per task."""
    powered = [g**exponent for g in gradients]
    if weighting == "none" or not finished:
        return [1.0] * len(powered)

    def mean(member: Callable[..., Any]) -> float:
        values = [value for value, task in zip(powered, tasks, strict=True) if member(task)]
        return sum(values) / len(values) if values else 1.0

    found = []
    for value, task in zip(powered, tasks, strict=True):
        if weighting == "paper_per_task" or task == finished:
            weight = value / mean(lambda other, task=task: other == task)
        else:
            weight = sum(
                value / mean(lambda other, last=last: other <= last)
                for last in range(task, finished)
            )
        found.append(weight if weighting == "paper_per_task" else min(max(weight, 0.5), 5.0))
    return found


def test_weights_of_four_images_over_three_tasks_by_hand() -> None:
    """Gradients 0.4 and 0.8 of the first task, 0.6 of the second, 0.3 of the current one."""
    found = weights_by_hand([0.4, 0.8, 0.6, 0.3], [0, 0, 1, 2], 2, 1.0, "lga_cumulative_clamped")
    assert found == pytest.approx([0.4 / 0.6 + 0.4 / 0.6, 0.8 / 0.6 + 0.8 / 0.6, 0.6 / 0.6, 1.0])
    assert (
        weights_by_hand([0.01, 0.99, 0.6, 0.3], [0, 0, 1, 2], 2, 1.0, "lga_cumulative_clamped")[0]
        == 0.5
    )  # clamped
    assert weights_by_hand(
        [0.4, 0.8, 0.6, 0.3], [0, 0, 1, 2], 2, 1.0, "paper_per_task"
    ) == pytest.approx([0.4 / 0.6, 0.8 / 0.6, 1, 1])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("head_loss", ["bce", "ce"])
def test_the_loss_is_the_slow_loop_of_the_equation(
    scene: Any, weighting: Any, head_loss: Any
) -> None:
    logits, old, rows = scene.logits(), scene.old_logits(), scene.batch.rows
    probabilities = torch.sigmoid(logits) if head_loss == "bce" else torch.softmax(logits, 1)
    gradients = [abs(float(probabilities[n, y]) - 1) for n, y in enumerate(rows.tolist())]
    tasks = [{0: 0, 2: 0, 1: 1, 3: 2, 4: 2}[y] for y in rows.tolist()]
    weights = weights_by_hand(gradients, tasks, 2, 3 / 5, weighting)
    current = distilled = 0.0
    for n, y in enumerate(rows.tolist()):
        one_hot = functional.one_hot(torch.tensor(y), 5).float()
        if head_loss == "bce":
            target = torch.cat([torch.sigmoid(old[n]), one_hot[3:]])
            current += (
                weights[n]
                * float(functional.binary_cross_entropy_with_logits(logits[n], one_hot))
                / len(rows)
            )
            distilled += (
                weights[n]
                * float(functional.binary_cross_entropy_with_logits(logits[n], target))
                / len(rows)
            )
        else:
            target = torch.cat([torch.softmax(old[n], 0), one_hot[3:]])
            log_p = torch.log_softmax(logits[n], 0)
            current += -weights[n] * float(log_p[y]) / len(rows)
            distilled += (
                weights[n]
                * sum(float(d * (d.log() - p)) for d, p in zip(target, log_p, strict=True) if d)
                / len(rows)
            )
    terms = scene.terms(LGA(weighting=weighting, head_loss=head_loss, lam=2.0))
    assert terms["classification"].item() == pytest.approx(2 * current, rel=1e-5)
    assert terms["semantic"].item() == pytest.approx(2 * distilled, rel=1e-5)


def test_without_weights_it_is_glfc_without_weights_times_two(scene: Any) -> None:
    torch.testing.assert_close(
        scene.total(LGA(weighting="none")), 2 * scene.total(GLFC(weighted=False))
    )
    torch.testing.assert_close(
        scene.total(LGA(weighting="none", lam=0.5)), scene.total(GLFC(weighted=False))
    )


def test_without_a_teacher_and_weights_it_is_glfc_times_one(scene: Any) -> None:
    context = scene.without_teacher
    assert torch.equal(
        scene.total(LGA(weighting="none"), context), scene.total(GLFC(weighted=False), context)
    )


def test_without_finished_tasks_every_weighting_gives_glfc_times_two(
    scene: Any,
) -> None:
    newcomer = replace(scene.context, groups=((0, 1, 2, 3, 4),))
    for weighting in WEIGHTINGS:
        torch.testing.assert_close(
            scene.total(LGA(weighting=cast(Any, weighting)), newcomer),
            2 * scene.total(GLFC(), newcomer),
        )


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_it_is_fedka_without_attention_bit_for_bit(scene: Any, weighting: Any) -> None:
    fedka = FedKA(classification_weight=1.0, attention_weight=0.0, weighting=weighting)
    assert torch.equal(scene.total(LGA(weighting=weighting)), scene.total(fedka))


def test_in_the_first_task_it_is_fedavg_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any], few_steps: ReconstructionConfig
) -> None:
    lga = play(LGA(reconstruction=few_steps, mean="by_images"), rounds=2)
    assert same(
        lga.server.weights, play(FedAvg(head_loss="bce", memory=True), rounds=2).server.weights
    )


def test_the_teacher_gets_no_gradient(scene: Any) -> None:
    scene.context.old_network.requires_grad_(True)
    scene.total(LGA()).backward()
    assert all(parameter.grad is None for parameter in scene.context.old_network.parameters())


def test_repeatable_over_growth_of_the_head_and_nothing_undeclared_leaves(
    play: Callable[..., Any],
    same: Callable[..., Any],
    few_steps: ReconstructionConfig,
    assert_wall: Callable[..., Any],
) -> None:
    first, second = (play(LGA(reconstruction=few_steps, warm_up_rounds=1)) for _ in range(2))
    assert len(first.server.task_begins) > 1
    assert same(first.server.weights, second.server.weights)
    assert any("semantic" in update.metrics for update in first.updates)
    assert_wall(first, {"prototype_gradients", "prototype_shape"})
    assert bool(LGA.uploads)


@pytest.fixture
def judged(grown: ServerState, tiny_batch: Batch) -> ServerState:
    """A server with reconstructions of five classes, three images each."""
    from physical.transforms import to_tensor

    images = torch.cat(
        [to_tensor(tiny_batch.images[20 * label : 20 * label + 3]) for label in range(5)]
    )
    kept = {
        "prototype_images": images,
        "prototype_rows": torch.arange(5).repeat_interleave(3),
        "prototype_task": torch.tensor(1),
    }
    return replace(grown, kept=kept)


def test_the_score_is_nothing_before_the_first_prototype(grown: ServerState) -> None:
    assert LGA().score(grown, []) is None


def test_a_model_of_a_tasks_first_rounds_scores_nothing(judged: ServerState) -> None:
    method = LGA(warm_up_rounds=2)
    values = [
        cast(Any, method.score(replace(judged, round=number), [])).value for number in range(5)
    ]
    full = cast(Any, score_on_perturbed_prototypes(judged, 0.15, 5)).value
    assert values[:3] == [0, 0, 0]
    assert values[3:] == [full, full]


def test_without_perturbation_the_score_is_the_heads_accuracy(judged: ServerState) -> None:
    assert cast(Any, score_on_perturbed_prototypes(judged, 0.0, 2)).value == pytest.approx(
        cast(Any, score_on_prototypes(judged)).value
    )


def test_scores_on_perturbed_features_are_never_compared_with_those_on_images(
    judged: ServerState,
) -> None:
    assert (
        cast(Any, score_on_perturbed_prototypes(judged, 0.1, 2)).test
        != cast(Any, score_on_prototypes(judged)).test
    )


def test_the_perturbation_is_repeatable_and_stays_in_the_ball(
    judged: ServerState, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    linear = functional.linear

    def watch(values: Tensor, *rest: Any) -> Tensor:
        seen.append(values)
        return linear(values, *rest)

    features = features_of(
        build_network(judged.network, judged.weights), judged.kept["prototype_images"]
    )
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", watch)
        scores = [score_on_perturbed_prototypes(judged, 1e6, 4) for _ in range(2)]
    perturbed = [values for values in seen if len(values) == 60]
    assert scores[0] == scores[1]
    assert torch.equal(perturbed[0], perturbed[1])
    variance = torch.stack(
        [
            features[judged.kept["prototype_rows"] == row].var(0, correction=0)
            for row in judged.kept["prototype_rows"]
        ]
    )
    limit = (0.1 * variance.square().sum(1)).repeat(4)
    moved = (perturbed[0] - features.repeat(4, 1)).square().sum(1)
    assert bool((moved <= limit * 1.001).all())
    assert bool((moved > 0).all())


@pytest.mark.parametrize(
    "wrong", [{"lam": 0.0}, {"radius": -1.0}, {"copies": 0}, {"warm_up_rounds": -1}]
)
def test_a_value_out_of_range_says_what_is_allowed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        LGA(**wrong)
