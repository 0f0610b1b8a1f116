from collections.abc import Callable
from math import exp, log, sqrt
from typing import Any

import pytest
import torch

from federation.methods.fedavg import FedAvg
from federation.methods.lwm import LwM
from incremental.attention import attention
from incremental.network import NetworkConfig


def softmax(values: list[float]) -> list[float]:
    total = sum(exp(value) for value in values)
    return [exp(value) / total for value in values]


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


def test_distillation_is_the_slow_loop_of_equation_2_less_the_teachers_entropy(scene: Any) -> None:
    logits, old = scene.logits().tolist(), scene.old_logits().tolist()
    expected = 0.0
    for o, t in zip(logits, old, strict=True):
        p, q = softmax([value / 2 for value in t]), softmax([value / 2 for value in o[:3]])
        expected += (
            sum(-a * log(b) for a, b in zip(p, q, strict=True)) - sum(-a * log(a) for a in p)
        ) / len(logits)
    assert scene.terms(LwM())["semantic"].item() == pytest.approx(expected, rel=1e-4)


def test_binary_distillation_is_over_the_teachers_classes_alone(scene: Any) -> None:
    logits, old = scene.logits().tolist(), scene.old_logits().tolist()
    expected = 0.0
    for o, t in zip(logits, old, strict=True):
        for c in range(3):
            target = sigmoid(t[c])
            expected -= (target * log(sigmoid(o[c])) + (1 - target) * log(1 - sigmoid(o[c]))) / (
                len(logits) * 5
            )
    assert scene.terms(LwM(head_loss="bce"))["semantic"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("layer", ["last", "middle"])
def test_attention_is_the_slow_loop_of_equation_4_for_the_teachers_first_choice(
    scene: Any, layer: Any
) -> None:
    outputs, old = scene.network(scene.batch.images), scene.context.old_network(scene.batch.images)
    rows = torch.tensor([max(range(3), key=values.__getitem__) for values in old.logits.tolist()])
    mine = attention(scene.network, outputs, rows, layer).detach().flatten(1).tolist()
    teachers = attention(scene.context.old_network, old, rows, layer).detach().flatten(1).tolist()
    expected = 0.0
    for one, other in zip(mine, teachers, strict=True):
        length, other_length = (
            sqrt(sum(v * v for v in one)) or 1.0,
            sqrt(sum(v * v for v in other)) or 1.0,
        )
        expected += sum(
            abs(b / other_length - a / length) for a, b in zip(one, other, strict=True)
        ) / len(mine)
    terms = scene.terms(LwM(attention_weight=0.5, attention_layer=layer))
    assert terms["attention"].item() == pytest.approx(0.5 * expected, rel=1e-4)


def test_attention_trains_the_students_maps_and_not_the_teacher(scene: Any) -> None:
    scene.context.old_network.requires_grad_(True)
    scene.terms(LwM())["attention"].backward()
    assert any(
        parameter.grad is not None and bool(parameter.grad.any())
        for parameter in scene.network.backbone.parameters()
    )
    assert all(parameter.grad is None for parameter in scene.context.old_network.parameters())


def test_no_image_weighs_more_than_another(scene: Any) -> None:
    """A batch's attention term is the mean over its images one by one."""
    whole = scene.terms(LwM())["attention"]
    parts = []
    for index in range(len(scene.batch.rows)):
        single = type(scene.batch)(
            scene.batch.images[index : index + 1], scene.batch.rows[index : index + 1]
        )
        parts.append(LwM().local_loss(scene.network, single, scene.context)["attention"])
    torch.testing.assert_close(whole, torch.stack(parts).mean(), rtol=1e-4, atol=1e-5)


def test_equal_models_have_no_distance(scene: Any, tiny_network: NetworkConfig) -> None:
    from dataclasses import replace

    twin = replace(scene.context, old_network=scene.network, old_rows=5)
    terms = scene.terms(LwM(), twin)
    assert abs(terms["semantic"].item()) < 1e-6 and terms["attention"].item() < 1e-6


def test_without_distillation_and_attention_it_is_fedavg_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any]
) -> None:
    found, expected = play(LwM(distillation_weight=0.0, attention_weight=0.0)), play(FedAvg())
    assert same(found.server.weights, expected.server.weights)


def test_in_the_first_task_it_is_fedavg_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any]
) -> None:
    assert same(play(LwM(), rounds=2).server.weights, play(FedAvg(), rounds=2).server.weights)


def test_it_learns_without_memorising() -> None:
    assert not LwM().replays


def test_repeatable_over_growth_of_the_head_and_nothing_but_weights_leaves(
    play: Callable[..., Any], same: Callable[..., Any], assert_wall: Callable[..., Any]
) -> None:
    first, second = (play(LwM()) for _ in range(2))
    assert len(first.server.task_begins) > 1
    assert same(first.server.weights, second.server.weights)
    assert any({"semantic", "attention"} <= update.metrics.keys() for update in first.updates)
    assert_wall(first, set())
    assert not LwM.uploads


@pytest.mark.parametrize(
    "wrong", [{"distillation_weight": -1.0}, {"attention_weight": -1.0}, {"temperature": 0.0}]
)
def test_a_value_out_of_range_says_what_is_allowed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        LwM(**wrong)
