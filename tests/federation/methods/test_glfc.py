from collections.abc import Callable
from math import exp, log
from typing import Any

import pytest
import torch

from federation.methods.fedavg import FedAvg
from federation.methods.glfc import GLFC
from incremental.network import build_network
from incremental.reconstruction import ReconstructionConfig


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


def softmax(values: list[float]) -> list[float]:
    total = sum(exp(value) for value in values)
    return [exp(value) / total for value in values]


def binary(logit: float, target: float) -> float:
    return -(target * log(sigmoid(logit)) + (1 - target) * log(1 - sigmoid(logit)))


def by_hand(
    logits: list[list[float]],
    old: list[list[float]],
    rows: list[int],
    finished: set[int],
    head_loss: Any,
) -> tuple[float, float]:
    """Section 2.8 of the notes on methods, image by image and class by class."""
    count, classes, known = len(rows), len(logits[0]), len(old[0])
    gradients = [
        abs((sigmoid(o[y]) if head_loss == "bce" else softmax(o)[y]) - 1)
        for o, y in zip(logits, rows, strict=True)
    ]
    is_old = [y in finished for y in rows]
    means = {
        side: sum(g for g, s in zip(gradients, is_old, strict=True) if s == side)
        / max(is_old.count(side), 1)
        for side in (True, False)
    }
    current = distilled = 0.0
    for o, t, y, g, side in zip(logits, old, rows, gradients, is_old, strict=True):
        weight = g / means[side]
        one_hot = [float(c == y) for c in range(classes)]
        if head_loss == "bce":
            target = [sigmoid(t[c]) if c < known else one_hot[c] for c in range(classes)]
            current += (
                weight * sum(binary(o[c], one_hot[c]) for c in range(classes)) / (count * classes)
            )
            distilled += sum(binary(o[c], target[c]) for c in range(classes)) / (count * classes)
        else:
            p, q = softmax(o), softmax(t)
            target = [q[c] if c < known else one_hot[c] for c in range(classes)]
            current += -weight * log(p[y]) / count
            distilled += sum(d * log(d / p[c]) for c, d in enumerate(target) if d) / count
    return current, distilled


@pytest.mark.parametrize("head_loss", ["bce", "ce"])
@pytest.mark.parametrize("share", [0.5, 0.25])
def test_the_loss_is_the_slow_loop_of_the_equation(
    scene: Any, head_loss: Any, share: float
) -> None:
    current, distilled = by_hand(
        scene.logits().tolist(),
        scene.old_logits().tolist(),
        scene.batch.rows.tolist(),
        {0, 1, 2},
        head_loss,
    )
    terms = scene.terms(GLFC(head_loss=head_loss, distillation_share=share))
    assert terms.keys() == {"classification", "semantic"}
    assert terms["classification"].item() == pytest.approx((1 - share) * current, rel=1e-5)
    assert terms["semantic"].item() == pytest.approx(share * distilled, rel=1e-5)


def test_weights_of_four_images_by_hand(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients 0.2, 0.6 of finished and 0.4, 0.8 of current classes, against means 0.4 and 0.6."""
    wanted = torch.tensor([0.2, 0.6, 0.4, 0.8])
    rows = torch.tensor([0, 1, 3, 4])
    logits = torch.zeros(4, 5)
    logits[range(4), rows] = torch.log((1 - wanted) / wanted)  # sigmoid(logit) = 1 - gradient
    network = build_network(scene.network.config, scene.context.global_weights)
    outputs = network(scene.batch.images[:4])
    monkeypatch.setattr(
        network,
        "forward",
        lambda images: type(outputs)(logits, outputs.features, outputs.maps, outputs.middle_maps),
    )
    batch = type(scene.batch)(scene.batch.images[:4], rows)
    found = GLFC().local_loss(network, batch, scene.without_teacher)["classification"]
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, torch.nn.functional.one_hot(rows, 5).float(), reduction="none"
    ).mean(1)
    torch.testing.assert_close(
        found, (torch.tensor([0.5, 1.5, 0.4 / 0.6, 0.8 / 0.6]) * each).mean()
    )


def test_all_finished_tasks_are_one_group(scene: Any) -> None:
    """LGA tells classes 0 and 2 (first task) from class 1 (second); GLFC does not."""
    merged = type(scene.context)(
        5, ((0, 1, 2), (3, 4)), scene.context.global_weights, scene.context.old_network, 3
    )
    assert torch.equal(scene.total(GLFC()), scene.total(GLFC(), merged))


def test_old_columns_learn_from_the_teacher_which_gets_no_gradient(
    scene: Any,
) -> None:
    logits = scene.network(scene.batch.images).logits
    scene.context.old_network.requires_grad_(True)
    loss = scene.terms(GLFC())["semantic"]
    loss.backward()
    assert all(parameter.grad is None for parameter in scene.context.old_network.parameters())
    target = torch.cat(
        [
            torch.sigmoid(scene.old_logits()),
            torch.nn.functional.one_hot(scene.batch.rows, 5)[:, 3:].float(),
        ],
        1,
    )
    expected = 0.5 * torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(loss, expected)


def test_without_finished_tasks_and_teacher_it_is_plain_cross_entropy(scene: Any) -> None:
    first = type(scene.context)(5, ((0, 1, 2, 3, 4),), scene.context.global_weights)
    for head_loss in ("bce", "ce"):
        assert torch.equal(
            scene.total(GLFC(head_loss=head_loss), first),
            scene.total(FedAvg(head_loss=head_loss), first),
        )


def test_in_the_first_task_it_is_fedavg_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any], few_steps: ReconstructionConfig
) -> None:
    glfc = play(GLFC(reconstruction=few_steps, mean="by_images"), rounds=2)
    assert same(
        glfc.server.weights, play(FedAvg(head_loss="bce", memory=True), rounds=2).server.weights
    )


def test_without_weights_and_distillation_it_is_fedavg_in_every_task_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any], few_steps: ReconstructionConfig
) -> None:
    plain = GLFC(distillation_share=0.0, weighted=False, mean="by_images", reconstruction=few_steps)
    found, expected = play(plain), play(FedAvg(head_loss="bce", memory=True))
    assert len(found.server.task_begins) > 1
    assert same(found.server.weights, expected.server.weights)


def test_every_twin_counts_the_same_by_default(
    play: Callable[..., Any], few_steps: ReconstructionConfig
) -> None:
    played = play(GLFC(reconstruction=few_steps), rounds=1)
    stacked = (
        torch.stack([update.weights["head.weight"] for update in played.updates])
        .double()
        .mean(0)
        .float()
    )
    torch.testing.assert_close(played.server.weights["head.weight"], stacked)


def test_repeatable_over_growth_of_the_head_and_nothing_undeclared_leaves(
    play: Callable[..., Any],
    same: Callable[..., Any],
    few_steps: ReconstructionConfig,
    assert_wall: Callable[..., Any],
) -> None:
    first, second = (play(GLFC(reconstruction=few_steps)) for _ in range(2))
    assert len(first.server.task_begins) > 1
    assert same(first.server.weights, second.server.weights)
    assert first.proxy.old_model is not None and first.proxy.old_model.score is not None
    assert "reconstructed prototypes" in first.proxy.old_model.score.test
    assert any("semantic" in update.metrics for update in first.updates)
    assert_wall(first, {"prototype_gradients", "prototype_shape"})
    assert bool(GLFC.uploads)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_out_of_range_says_what_is_allowed(share: float) -> None:
    with pytest.raises(ValueError, match="allowed: 0 to below 1"):
        GLFC(distillation_share=share)
