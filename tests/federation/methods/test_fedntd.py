from collections.abc import Callable
from dataclasses import replace
from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor

from federation.methods.fedavg import FedAvg
from federation.methods.fedntd import FedNTD
from incremental.network import NetworkConfig, build_network, freeze
from twin.losses import not_true_distillation


def softmax_without(logits: list[float], left_out: int, temperature: float) -> dict[int, float]:
    powers = {c: exp(value / temperature) for c, value in enumerate(logits) if c != left_out}
    return {c: power / sum(powers.values()) for c, power in powers.items()}


def by_hand(logits: Tensor, global_logits: Tensor, rows: Tensor, temperature: float) -> float:
    total = 0.0
    for local, teacher, y in zip(
        logits.tolist(), global_logits.tolist(), rows.tolist(), strict=True
    ):
        q, p = softmax_without(teacher, y, temperature), softmax_without(local, y, temperature)
        total += sum(q[c] * log(q[c] / p[c]) for c in q)
    return temperature**2 * total / len(rows)


@pytest.mark.parametrize("memory", [False, True])
def test_without_distillation_it_is_fedavg_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any], memory: bool
) -> None:
    assert same(
        play(FedNTD(distillation_weight=0.0, memory=memory)).server.weights,
        play(FedAvg(memory=memory)).server.weights,
    )


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_term_is_the_slow_loop_of_the_equation(
    scene: Any, tiny_network: NetworkConfig, temperature: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    received = {
        name: value + 0.1 * torch.rand(value.shape, generator=generator)
        for name, value in scene.context.global_weights.items()
    }
    received = {
        name: value.to(scene.context.global_weights[name].dtype) for name, value in received.items()
    }
    teacher = build_network(tiny_network, received).eval()
    expected = by_hand(
        scene.logits(), teacher(scene.batch.images).logits.detach(), scene.batch.rows, temperature
    )
    terms = scene.terms(FedNTD(0.7, temperature), replace(scene.context, global_weights=received))
    assert expected > 1e-3
    assert terms["distillation"].item() == pytest.approx(0.7 * expected, rel=1e-4)
    assert terms["classification"].item() == scene.terms(FedAvg())["classification"].item()


def test_distilling_a_model_into_itself_costs_nothing(scene: Any) -> None:
    assert scene.terms(FedNTD())["distillation"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("classes", [1, 2])
def test_one_and_two_classes_have_nothing_to_distil_and_a_finite_gradient(classes: int) -> None:
    logits = torch.randn(4, classes, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = not_true_distillation(
        logits, torch.zeros(4, classes), torch.zeros(4, dtype=torch.int64), 1.0
    )
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None and not logits.grad.any()


def test_the_true_class_gets_no_gradient_and_the_global_model_none_at_all() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, generator=generator, requires_grad=True)
    teacher = torch.randn(3, 4, generator=generator, requires_grad=True)
    rows = torch.tensor([0, 3, 1])
    not_true_distillation(logits, teacher, rows, 1.0).backward()
    assert teacher.grad is None
    assert logits.grad is not None
    assert not logits.grad.gather(1, rows[:, None]).any()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_the_teacher_is_built_once_and_its_statistics_stay(scene: Any) -> None:
    context, before = (
        scene.context,
        {name: value.clone() for name, value in scene.context.global_weights.items()},
    )
    scene.network.train()
    for _ in range(2):
        scene.terms(FedNTD())
    teacher = context.cached("global model", lambda: None)
    assert teacher is not None and not teacher.training
    assert all(torch.equal(value, before[name]) for name, value in context.global_weights.items())
    fresh = freeze(build_network(scene.network.config, before))
    assert all(
        torch.equal(value, fresh.state_dict()[name]) for name, value in teacher.state_dict().items()
    )


def test_nothing_but_the_model_crosses_the_wall_and_the_seed_decides(
    play: Callable[..., Any], same: Callable[..., Any], assert_wall: Callable[..., Any]
) -> None:
    played = play(FedNTD(memory=True))
    assert_wall(played, set())
    assert not FedNTD.uploads
    assert len(played.server.task_begins) > 2
    assert all("distillation" in each.metrics for each in played.updates)
    assert same(played.server.weights, play(FedNTD(memory=True)).server.weights)
    assert not same(played.server.weights, play(FedAvg(memory=True)).server.weights)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"distillation_weight is -1.0; allowed: 0 or more"):
        FedNTD(distillation_weight=-1.0)
    with pytest.raises(ValueError, match=r"temperature is 0.0; allowed: above 0"):
        FedNTD(temperature=0.0)
