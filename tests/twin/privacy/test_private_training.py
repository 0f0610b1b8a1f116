import sys
from collections.abc import Callable
from math import ceil, sqrt
from typing import Any

import pydantic
import pytest
import torch
from torch import Tensor

from incremental.head import grow_head
from incremental.network import (
    IncrementalNetwork,
    NetworkConfig,
    build_network,
    initial_weights,
    weights_of,
)
from physical.transforms import to_unit
from tests.twin.privacy.private_examples import ROWS, terms_at, train
from twin.local_training import TrainingConfig
from twin.objective import Terms
from twin.privacy.differential_privacy import PrivacyError, PrivacySpent
from twin.privacy.private_training import (
    PrivateTraining,
    per_image_gradients,
    private_steps,
    sample_rate,
)

pytest.importorskip("opacus")


Loss = Callable[[IncrementalNetwork, Tensor, Tensor], Tensor]


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


def test_every_image_is_sampled_independently_with_the_rate_that_is_counted(
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


def test_a_loss_that_uses_weights_is_refused(
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


def test_hooks_are_removed_when_training_ends_even_with_an_error(
    lenet: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    train(lenet, data, PrivateTraining())
    with pytest.raises(RuntimeError, match="on purpose"), per_image_gradients(lenet):
        raise RuntimeError("on purpose")
    assert not any(module._forward_hooks or module._backward_hooks for module in lenet.modules())
    assert not any(hasattr(each, "grad_sample") for each in lenet.parameters())
    lenet(to_unit(data[0])).logits.sum().backward()
    assert not any(hasattr(each, "grad_sample") for each in lenet.parameters())


def test_without_opacus_the_error_says_what_to_install(
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
def test_an_impossible_configuration_of_private_training_is_refused(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        PrivateTraining(**wrong)


def test_private_training_in_half_precision_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="set precision to float32"):
        TrainingConfig(private=PrivateTraining(), precision="bfloat16")
