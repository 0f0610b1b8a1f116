import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, inf, sqrt
from typing import Any

import pydantic
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from incremental.head import grow_head
from incremental.network import (
    IncrementalNetwork,
    NetworkConfig,
    build_network,
    initial_weights,
    weights_of,
)
from physical.transforms import AugmentationConfig, to_unit
from twin.batches import TrainingBatch
from twin.local_training import TrainingConfig, train_locally
from twin.objective import LocalContext, Terms
from twin.privacy.differential_privacy import PrivacyError, PrivacySpent
from twin.privacy.noise import SeededSource
from twin.privacy.private_training import (
    PrivateTraining,
    per_image_gradients,
    private_optimiser,
    private_steps,
    sample_rate,
)

pytest.importorskip("opacus")

OFF = AugmentationConfig(crop_padding_pixels=0, brightness=0.0)
NETWORKS = {
    "lenet": NetworkConfig(backbone="lenet", width=4, norm="group", image_size=16),
    "resnet10": NetworkConfig(backbone="resnet10", width=2, norm="group", image_size=16),
}
ROWS = 5
Loss = Callable[[IncrementalNetwork, Tensor, Tensor], Tensor]


@dataclass
class CrossEntropy:
    """A method whose loss is a mean over images."""

    replays: bool = True
    held_out_fraction: float = 0.0

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        logits = network(batch.images).logits
        return {
            "fit": functional.cross_entropy(logits, batch.rows),
            "size": 0.1 * logits.square().sum(1).mean(),
        }

    def finish_local(
        self, network: IncrementalNetwork, context: LocalContext
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        return {}, {}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> IncrementalNetwork:
    config = NETWORKS[request.param]
    return build_network(
        config, grow_head(initial_weights(config, 1), ROWS, torch.Generator().manual_seed(1))
    )


@pytest.fixture
def lenet() -> IncrementalNetwork:
    config = NETWORKS["lenet"]
    return build_network(
        config, grow_head(initial_weights(config, 1), ROWS, torch.Generator().manual_seed(1))
    )


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return images.to(memory_format=torch.channels_last), torch.arange(
        24
    ) % ROWS  # pixel by pixel, as a hospital's images lie


def context_of(network: IncrementalNetwork) -> LocalContext:
    return LocalContext(
        num_rows=ROWS, groups=(tuple(range(ROWS)),), global_weights=weights_of(network)
    )


def train(
    network: IncrementalNetwork,
    data: tuple[Tensor, Tensor],
    private: PrivateTraining | None,
    seed: int = 1,
    **changes: Any,
) -> dict[str, float]:
    settings = {
        "batch_size": 8,
        "gradient_clip": None,
        "augmentation": OFF,
        "private": private,
        **changes,
    }
    config = TrainingConfig(epochs=1, **settings)
    generator = torch.Generator().manual_seed(seed)
    return train_locally(
        network, *data, CrossEntropy(), context_of(network), config, (0.1,), generator
    ).metrics


def terms_at(network: IncrementalNetwork, data: tuple[Tensor, Tensor]) -> Callable[[Tensor], Terms]:
    images = to_unit(data[0])
    return lambda chosen: CrossEntropy().local_loss(
        network, TrainingBatch(images[chosen], data[1][chosen]), context_of(network)
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


def test_training_repeats_with_its_seed_and_not_with_noise_of_the_system(
    lenet: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    def trained(config: PrivateTraining, seed: int) -> Tensor:
        network = build_network(lenet.config, weights_of(lenet))
        assert train(network, data, config, seed) == {}
        return weights_of(network)["head.weight"]

    seeded, system = PrivateTraining(), PrivateTraining(noise_source="system")
    assert torch.equal(trained(seeded, 1), trained(seeded, 1))
    assert not torch.equal(trained(seeded, 1), trained(seeded, 2))
    assert not torch.equal(trained(system, 1), trained(system, 1))


# --- sampling ---


def test_every_image_is_drawn_by_itself_with_the_rate_that_is_counted(
    lenet: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    optimiser = torch.optim.SGD(lenet.parameters(), lr=1.0)
    counts, sizes = torch.zeros(24), []
    with private_steps(
        lenet,
        optimiser,
        terms_at(lenet, data),
        24,
        5,
        None,
        PrivateTraining(),
        torch.Generator().manual_seed(1),
    ) as steps:
        for _ in range(400):
            epoch = list(steps.draw())
            assert len(epoch) == 5
            for chosen in epoch:
                assert chosen.tolist() == sorted(set(chosen.tolist()))
                counts[chosen] += 1
                sizes.append(float(len(chosen)))
    rate = sample_rate(24, 5)
    assert rate == 5 / 24
    assert float((counts / 2000 - rate).abs().max()) < 5 * sqrt(rate * (1 - rate) / 2000)
    assert float(torch.tensor(sizes).var()) == pytest.approx(
        24 * rate * (1 - rate), rel=0.15
    )  # of a binomial number


@pytest.mark.parametrize(("images", "batch", "rate"), [(100, 8, 0.08), (8, 8, 1.0), (3, 8, 1.0)])
def test_a_round_costs_as_many_steps_as_it_takes(images: int, batch: int, rate: float) -> None:
    cost = PrivateTraining(noise_multiplier=1.5).cost(images, batch, 3)
    assert cost == PrivacySpent(1.5, rate, 3 * ceil(images / batch), True)
    assert not PrivateTraining(noise_source="system").cost(images, batch, 3).seeded


# --- what must not be ---


def test_batch_normalisation_is_refused_by_name(
    tiny_network: NetworkConfig, data: tuple[Tensor, Tensor]
) -> None:
    network = build_network(
        tiny_network,
        grow_head(initial_weights(tiny_network, 1), ROWS, torch.Generator().manual_seed(1)),
    )
    with pytest.raises(
        PrivacyError, match=r"backbone\.first\.1 is a batch normalisation.*network\.norm: group"
    ):
        train(network, data, PrivateTraining())


def test_a_loss_that_looks_at_weights_is_refused(
    lenet: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    lenet.train()

    def terms(chosen: Tensor) -> Terms:
        return {**terms_at(lenet, data)(chosen), "decay": lenet.head.weight.square().sum()}

    optimiser = torch.optim.SGD(lenet.parameters(), lr=1.0)
    before = lenet.head.weight.detach().clone()
    with (
        private_steps(
            lenet, optimiser, terms, 24, 8, None, PrivateTraining(), torch.Generator()
        ) as steps,
        pytest.raises(PrivacyError, match="gradients of its images do not show"),
    ):
        steps.step(torch.arange(8))
    assert torch.equal(lenet.head.weight, before)


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


def test_hooks_are_gone_when_training_ends_also_by_an_error(
    lenet: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    train(lenet, data, PrivateTraining())
    with pytest.raises(RuntimeError, match="on purpose"), per_image_gradients(lenet):
        raise RuntimeError("on purpose")
    assert not any(module._forward_hooks or module._backward_hooks for module in lenet.modules())
    assert not any(hasattr(each, "grad_sample") for each in lenet.parameters())
    lenet(to_unit(data[0])).logits.sum().backward()
    assert not any(hasattr(each, "grad_sample") for each in lenet.parameters())


def test_a_machine_without_opacus_is_told_what_to_install(
    lenet: IncrementalNetwork, data: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(
        PrivacyError,
        match=r"training\.private needs the package opacus.*pip install 'fedka\[privacy\]'",
    ):
        train(lenet, data, PrivateTraining())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier is 0.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm is nan"),
        ({"delta": 2.0}, "delta is 2.0"),
        ({"epsilon_budget": -1.0}, "epsilon_budget is -1.0"),
        ({"max_gard_norm": 1.0}, "max_gard_norm"),
    ],
)
def test_a_private_training_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        PrivateTraining(**wrong)


def test_private_training_in_half_precision_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="set precision to float32"):
        TrainingConfig(private=PrivateTraining(), precision="bfloat16")
