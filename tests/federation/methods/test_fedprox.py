from collections.abc import Callable
from typing import Any

import pytest
import torch

from federation.methods.fedavg import FedAvg
from federation.methods.fedprox import FedProx
from incremental.network import IncrementalNetwork, NetworkConfig, weights_of
from incremental.weight_tensors import parameters_of


@pytest.mark.parametrize("memory", [False, True])
def test_without_the_term_it_is_fedavg_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any], memory: bool
) -> None:
    assert same(
        play(FedProx(mu=0.0, memory=memory)).server.weights,
        play(FedAvg(memory=memory)).server.weights,
    )


def test_the_term_is_the_slow_sum_over_single_parameters(scene: Any) -> None:
    with torch.no_grad():
        for value in scene.network.parameters():
            value += 0.01 * torch.arange(value.numel()).view(value.shape) % 0.07
    expected = 0.0
    for name, value in scene.network.named_parameters():
        for one, other in zip(
            value.flatten().tolist(),
            scene.context.global_weights[name].flatten().tolist(),
            strict=True,
        ):
            expected += (one - other) ** 2
    terms = scene.terms(FedProx(mu=0.3))
    assert terms.keys() == {"classification", "proximal"}
    assert terms["proximal"].item() == pytest.approx(0.3 / 2 * expected, rel=1e-5)
    assert terms["classification"].item() == scene.terms(FedAvg())["classification"].item()


def test_the_gradient_of_the_term_is_mu_times_the_way_from_the_global_model(scene: Any) -> None:
    with torch.no_grad():
        scene.network.head.weight += 0.5
    gradient = torch.autograd.grad(
        scene.terms(FedProx(mu=0.2))["proximal"], scene.network.head.weight
    )[0]
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.1))


def test_statistics_of_batch_normalisation_do_not_pull(scene: Any) -> None:
    for name, value in scene.network.named_buffers():
        if "running" in name:
            value += 1
    assert scene.terms(FedProx(mu=1.0))["proximal"].item() == 0


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("backbone", ["lenet", "resnet10"])
def test_parameters_among_weights_are_those_that_training_moves(backbone: Any, norm: Any) -> None:
    network = IncrementalNetwork(NetworkConfig(backbone=backbone, width=8, norm=norm), 3)
    assert parameters_of(weights_of(network)).keys() == dict(network.named_parameters()).keys()


def test_a_strong_pull_keeps_twins_near_the_global_model(play: Callable[..., Any]) -> None:
    def way(method: FedProx) -> float:
        return max(each.metrics["proximal"] for each in play(method, rounds=1).updates) / method.mu

    assert way(FedProx(mu=1.0)) < way(FedProx(mu=1e-6))


def test_nothing_but_the_model_crosses_the_wall_and_the_seed_decides(
    play: Callable[..., Any], same: Callable[..., Any], assert_wall: Callable[..., Any]
) -> None:
    played = play(FedProx())
    assert_wall(played, set())
    assert not FedProx.uploads
    assert len(played.server.task_begins) > 2
    assert same(played.server.weights, play(FedProx()).server.weights)


@pytest.mark.parametrize("mu", [-0.1, float("nan")])
def test_a_mu_out_of_range_is_refused(mu: float) -> None:
    with pytest.raises(ValueError, match=r"mu is .* allowed: 0 or more"):
        FedProx(mu=mu)
