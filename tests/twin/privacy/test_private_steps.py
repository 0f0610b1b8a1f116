from math import inf, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from incremental.network import IncrementalNetwork, build_network, weights_of
from physical.transforms import to_unit
from tests.twin.privacy.private_examples import terms_at, train
from twin.objective import Terms
from twin.privacy.noise import SeededSource
from twin.privacy.private_training import (
    PrivateTraining,
    per_image_gradients,
    private_optimiser,
    private_steps,
)


def slow_gradients(network: IncrementalNetwork, data: tuple[Tensor, Tensor]) -> list[list[Tensor]]:
    """The gradient of each image's own loss, one backward pass each."""
    gradients = []
    for place in range(len(data[1])):
        total = torch.stack(list(terms_at(network, data)(torch.tensor([place])).values())).sum()
        gradients.append(
            [
                each.detach().clone()
                for each in torch.autograd.grad(total, list(network.parameters()))
            ]
        )
    return gradients


def norm_of(gradient: list[Tensor]) -> float:
    return sqrt(sum(float(each.double().square().sum()) for each in gradient))


# --- gradients of single images ---


def test_gradients_of_single_images_are_those_of_a_slow_loop(
    network: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    network.train()
    slow = slow_gradients(network, data)
    with per_image_gradients(network):
        terms = terms_at(network, data)(torch.arange(24))
        with pytest.warns(UserWarning, match="Full backward hook is firing"):
            torch.stack(list(terms.values())).sum().backward()
        for index, parameter in enumerate(network.parameters()):
            expected = torch.stack([each[index] for each in slow])
            found = parameter.grad_sample  # type: ignore[attr-defined]  # Opacus sets it
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0, 3.0])
def test_a_step_goes_along_the_mean_of_clipped_gradients(
    network: IncrementalNetwork, data: tuple[Tensor, Tensor], share: float
) -> None:
    network.train()
    slow = slow_gradients(network, data)
    limit = (
        share * sorted(norm_of(each) for each in slow)[12]
    )  # at 1 half of the images are clipped
    factors = [min(1.0, limit / norm_of(each)) for each in slow]
    before = [each.detach().clone() for each in network.parameters()]
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    with per_image_gradients(network):
        dp = private_optimiser(optimiser, 0.0, limit, 20.0, SeededSource(torch.Generator()))
        terms = terms_at(network, data)(torch.arange(24))
        with pytest.warns(UserWarning, match="Full backward hook is firing"):
            torch.stack(list(terms.values())).sum().backward()
        dp.step()
    for index, parameter in enumerate(network.parameters()):
        expected = (
            before[index]
            - torch.stack(
                [factor * each[index] for factor, each in zip(factors, slow, strict=True)]
            ).sum(0)
            / 20
        )
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"momentum": 0.9, "weight_decay": 0.1}, {"gradient_clip": 0.2}], ids=str
)
def test_without_noise_and_clipping_a_step_on_all_images_is_that_of_ordinary_training(
    network: IncrementalNetwork, data: tuple[Tensor, Tensor], settings: dict[str, Any]
) -> None:
    other = build_network(network.config, weights_of(network))
    train(
        network,
        data,
        PrivateTraining(noise_multiplier=1e-12, max_grad_norm=1e4),
        batch_size=24,
        **settings,
    )
    train(other, data, None, batch_size=24, **settings)
    for found, expected in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


# --- noise ---


def test_a_step_on_no_image_is_noise_of_the_deviation_that_was_asked_for(
    lenet: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    lenet.train()
    config = PrivateTraining(noise_multiplier=2.0, max_grad_norm=3.0)
    moves = []
    for seed in range(40):
        network = build_network(lenet.config, weights_of(lenet)).train()
        optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
        generator = torch.Generator().manual_seed(seed)
        with private_steps(
            network, optimiser, terms_at(network, data), 24, 8, None, config, generator
        ) as steps:
            assert steps.step(torch.empty(0, dtype=torch.int64)) == {}
        pairs = zip(network.parameters(), lenet.parameters(), strict=True)
        moves.append(torch.cat([(new.detach() - old.detach()).flatten() for new, old in pairs]))
    noise = torch.stack(moves)
    assert float(noise.std()) == pytest.approx(2.0 * 3.0 / 8, rel=5 / sqrt(2 * noise.numel()))
    assert abs(float(noise.mean())) < 0.75 * 5 / sqrt(noise.numel())


def test_the_noise_of_a_step_is_the_same_whatever_the_images(
    lenet: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    config, moves = PrivateTraining(noise_multiplier=1.0, max_grad_norm=1e-3), []
    for chosen in (torch.arange(24), torch.arange(3)):
        network = build_network(lenet.config, weights_of(lenet)).train()
        optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
        with private_steps(
            network,
            optimiser,
            terms_at(network, data),
            24,
            8,
            None,
            config,
            torch.Generator().manual_seed(1),
        ) as steps:
            steps.step(chosen)
        moves.append(torch.cat([each.detach().flatten() for each in network.parameters()]))
    assert 0 < float((moves[0] - moves[1]).norm()) <= 1e-3 * (24 + 3) / 8


def test_an_image_whose_gradient_is_not_finite_moves_nothing_beyond_its_share(
    lenet: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    lenet.train()

    def terms(chosen: Tensor) -> Terms:
        logits = lenet(to_unit(data[0])[chosen]).logits
        each = functional.cross_entropy(logits, data[1][chosen], reduction="none")
        return {"fit": torch.where(chosen == 3, each * inf, each).mean()}

    optimiser = torch.optim.SGD(lenet.parameters(), lr=1.0)
    before = [each.detach().clone() for each in lenet.parameters()]
    config = PrivateTraining(noise_multiplier=1e-12, max_grad_norm=0.5)
    with private_steps(lenet, optimiser, terms, 24, 8, None, config, torch.Generator()) as steps:
        steps.step(torch.arange(8))
    moved = [new.detach() - old for new, old in zip(lenet.parameters(), before, strict=True)]
    assert 0 < norm_of(moved) <= 0.5 * 8 / 8 * (1 + 1e-5)
