from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from torch import Tensor

from incremental.head import grow_head
from incremental.inference import logits_of
from incremental.network import (
    IncrementalNetwork,
    NetworkConfig,
    build_network,
    initial_weights,
    weights_of,
)
from physical.batch import Batch
from physical.transforms import AugmentationConfig, to_tensor, to_unit
from twin.batches import TrainingBatch
from twin.local_training import TrainingConfig, learning_rate, train_locally
from twin.objective import LocalContext, Terms

OFF = AugmentationConfig(crop_padding_pixels=0, brightness=0.0)


@dataclass
class CrossEntropy:
    """A method that writes down what it is shown."""

    replays: bool = True
    held_out_fraction: float = 0.0
    factor: float = 1.0
    seen: list[TrainingBatch] = field(default_factory=list)

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        self.seen.append(batch)
        fit = torch.nn.functional.cross_entropy(network(batch.images).logits.float(), batch.rows)
        return {"fit": self.factor * fit, "constant": torch.tensor(2.0)}

    def finish_local(
        self, network: IncrementalNetwork, context: LocalContext
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        return {}, {}


@pytest.fixture
def network(tiny_network: NetworkConfig) -> IncrementalNetwork:
    return build_network(
        tiny_network,
        grow_head(initial_weights(tiny_network, 1), 9, torch.Generator().manual_seed(1)),
    )


@pytest.fixture
def data(tiny_batch: Batch) -> tuple[Tensor, Tensor]:
    return to_tensor(tiny_batch.images), torch.from_numpy(tiny_batch.labels)


def train(
    network: IncrementalNetwork,
    data: tuple[Tensor, Tensor],
    config: TrainingConfig,
    rates: tuple[float, ...] = (0.1,),
    objective: CrossEntropy | None = None,
    seed: int = 1,
) -> dict[str, float]:
    context = LocalContext(
        num_rows=9, groups=(tuple(range(9)),), global_weights=weights_of(network)
    )
    generator = torch.Generator().manual_seed(seed)
    result = train_locally(
        network, *data, objective or CrossEntropy(), context, config, rates, generator
    )
    return {**result.metrics, "num_steps": float(result.num_steps)}


# --- the learning rate ---


def rates_of_a_task(schedule: Any, epochs: int, rounds: int = 10) -> list[list[float]]:
    config = TrainingConfig(epochs=epochs, schedule=schedule)
    return [
        [learning_rate(config, number, epoch, rounds) for epoch in range(epochs)]
        for number in range(rounds)
    ]


def test_rates_as_coded_with_20_epochs_are_those_of_the_table() -> None:
    expected = [[2.0] * 20] * 5 + [
        [0.4] * 20,
        [2.0] * 20,
        [2.0] * 10 + [0.08] * 10,
        [2.0] * 20,
        [0.016] * 20,
    ]
    assert np.allclose(rates_of_a_task("as_coded", 20), expected)


def test_rates_as_coded_with_5_epochs_are_those_of_the_table() -> None:
    expected = [[2.0] * 5] * 5 + [[0.4] * 5, [2.0] * 5, [2.0] * 5, [2.0] * 5, [0.016] * 5]
    assert np.allclose(rates_of_a_task("as_coded", 5), expected)


def test_the_intended_rate_falls_with_the_share_of_the_task() -> None:
    expected = (
        [[2.0] * 4] * 5 + [[0.4] * 4] * 2 + [[0.4] * 2 + [0.08] * 2] + [[0.08] * 4] + [[0.016] * 4]
    )
    assert np.allclose(rates_of_a_task("as_intended", 4), expected)


@pytest.mark.parametrize(
    ("rounds", "full", "fifth", "least"), [(20, 9, 10, 18), (30, 14, 15, 27), (4, 1, 2, 3)]
)
def test_the_intended_rate_scales_with_the_rounds_of_a_task(
    rounds: int, full: int, fifth: int, least: int
) -> None:
    rates = [row[-1] for row in rates_of_a_task("as_intended", 10, rounds)]
    assert rates[full] == 2.0
    assert rates[fifth] == pytest.approx(0.4)
    assert rates[least] == pytest.approx(0.016)


def test_the_rate_stays_at_its_least_where_a_task_lasts_longer_than_planned() -> None:
    config = TrainingConfig(schedule="as_intended")
    assert learning_rate(config, 25, 0, 10) == pytest.approx(0.016)


def test_a_constant_rate_is_constant() -> None:
    assert {rate for row in rates_of_a_task("constant", 3) for rate in row} == {2.0}


# --- the loop ---


def test_a_step_is_that_of_plain_gradient_descent_with_weight_decay(
    network: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    other = build_network(network.config, weights_of(network)).train()
    loss = torch.nn.functional.cross_entropy(other(to_unit(data[0])).logits, data[1])
    gradients = torch.autograd.grad(loss, list(other.parameters()))
    expected = [
        value.detach() - 0.3 * (gradient + 0.01 * value.detach())
        for value, gradient in zip(other.parameters(), gradients, strict=True)
    ]
    config = TrainingConfig(
        batch_size=1000, weight_decay=0.01, gradient_clip=None, augmentation=OFF
    )
    metrics = train(network, data, config, (0.3,))
    for found, wanted in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted, rtol=1e-4, atol=1e-6)
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    assert metrics["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert metrics["fit"] == pytest.approx(float(loss.detach()), rel=1e-5)


def test_every_image_is_seen_once_an_epoch_and_the_last_smaller_batch_is_kept(
    network: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    objective = CrossEntropy()
    metrics = train(
        network, data, TrainingConfig(batch_size=50, augmentation=OFF), (0.01, 0.01), objective
    )
    assert [len(batch.rows) for batch in objective.seen] == [50, 50, 50, 30] * 2
    assert metrics["num_steps"] == 8
    whole = to_unit(data[0])
    orders = []
    for epoch in (objective.seen[:4], objective.seen[4:]):
        images, rows = (
            torch.cat([batch.images for batch in epoch]),
            torch.cat([batch.rows for batch in epoch]),
        )
        found = [int((whole == image).flatten(1).all(1).nonzero()[0]) for image in images]
        assert sorted(found) == list(range(180))
        assert torch.equal(rows, data[1][found])
        orders.append(found)
    assert orders[0] != orders[1]


def test_metrics_are_means_over_the_steps(
    network: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    metrics = train(network, data, TrainingConfig(batch_size=50, augmentation=OFF), (0.01, 0.01))
    assert metrics["constant"] == pytest.approx(2.0)
    assert metrics["total"] == pytest.approx(metrics["fit"] + 2.0, rel=1e-5)
    assert metrics["gradient_norm"] > 0


def test_each_epoch_has_its_own_rate(
    network: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    other = build_network(network.config, weights_of(network))
    config = TrainingConfig(augmentation=OFF)
    train(network, data, config, (0.1, 0.0))
    train(other, data, config, (0.1,))
    for found, wanted in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_a_steep_step_is_clipped(network: IncrementalNetwork, data: tuple[Tensor, Tensor]) -> None:
    before = [parameter.detach().clone() for parameter in network.parameters()]
    config = TrainingConfig(batch_size=1000, weight_decay=0.0, gradient_clip=0.5, augmentation=OFF)
    metrics = train(network, data, config, (0.1,), CrossEntropy(factor=1e4))
    moved = torch.stack(
        [
            (new.detach() - old).square().sum()
            for new, old in zip(network.parameters(), before, strict=True)
        ]
    )
    assert float(moved.sum().sqrt()) == pytest.approx(0.05, rel=1e-3)
    assert metrics["gradient_norm"] > 100


def test_training_learns_synthetic_images(
    network: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    metrics = train(network, data, TrainingConfig(batch_size=16, augmentation=OFF), (0.2,) * 8)
    accuracy = float((logits_of(network, data[0]).argmax(1) == data[1]).float().mean())
    assert accuracy > 0.8
    assert metrics["fit"] < 1.5


def test_training_depends_on_its_seed_alone(
    network: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    state = torch.get_rng_state()
    weights, config = (
        weights_of(network),
        TrainingConfig(augmentation=AugmentationConfig(2, True, 0.2)),
    )
    trained = []
    for seed in (1, 1, 2):
        again = build_network(network.config, weights)
        train(again, data, config, (0.1, 0.1), seed=seed)
        trained.append(weights_of(again))
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in weights)
    assert not all(torch.equal(trained[0][name], trained[2][name]) for name in weights)
    assert torch.equal(state, torch.get_rng_state())


def test_training_counts_its_batches_in_an_integer(
    network: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    train(network, data, TrainingConfig(batch_size=50, augmentation=OFF))
    counter = weights_of(network)["backbone.first.1.num_batches_tracked"]
    assert counter.dtype == torch.int64
    assert int(counter) == 4


def test_half_precision_keeps_weights_in_float32(
    network: IncrementalNetwork, data: tuple[Tensor, Tensor]
) -> None:
    metrics = train(
        network, data, TrainingConfig(batch_size=60, precision="bfloat16", augmentation=OFF)
    )
    assert all(
        value.dtype in (torch.float32, torch.int64) for value in weights_of(network).values()
    )
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"gradient_clip": 0.0}, "gradient_clip is 0.0"),
        ({"schedule": "cosine"}, "as_coded"),
        ({"learnig_rate": 0.1}, "learnig_rate"),
        ({"augmentation": {"flip": True}}, "flip"),
    ],
)
def test_an_impossible_training_configuration_is_refused(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        TrainingConfig(**wrong)


@pytest.mark.parametrize(("images", "steps"), [(1, 1), (32, 1), (33, 2), (0, 0)])
def test_an_epoch_has_as_many_steps_as_batches(images: int, steps: int) -> None:
    assert TrainingConfig(batch_size=32).steps_per_epoch(images) == steps
