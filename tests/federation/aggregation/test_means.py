from dataclasses import replace

import numpy as np
import pytest
import torch

from federation.aggregation.means import Arrived, matched_rows, mean_of_arrived, weighted_mean
from federation.methods.fedavg import FedAvg
from federation.server import ServerState, grow_for_new_classes, new_server
from incremental.head import HEAD_ROWS, Weights
from incremental.network import NetworkConfig
from twin.messages import Observation, TwinUpdate

NAMES = ("liver", "lung", "heart")


@pytest.fixture
def server(tiny_network: NetworkConfig) -> ServerState:
    seen = Observation("north", 0, 1, True, NAMES)
    return grow_for_new_classes(new_server(tiny_network, 1), [seen])[0]


def moved(weights: Weights, seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + torch.rand(value.shape, generator=generator)
        if value.is_floating_point()
        else value + seed
        for name, value in weights.items()
    }


def update_of(server: ServerState, seed: int, names: tuple[str, ...] = NAMES) -> TwinUpdate:
    """Return an update whose head has rows for some classes in any order."""
    weights = moved(server.weights, seed)
    rows = [server.class_names.index(name) for name in names]
    weights |= {name: weights[name][rows] for name in HEAD_ROWS}
    return TwinUpdate(f"twin {seed}", 0, weights, 10 * seed, class_names=names)


def test_a_weighted_mean_is_that_of_numpy(server: ServerState) -> None:
    updates, shares = [update_of(server, seed) for seed in (1, 2, 3)], [3, 1, 2.5]
    mean = weighted_mean([each.weights for each in updates], shares)
    for name, value in server.weights.items():
        expected = np.average([each.weights[name].numpy() for each in updates], 0, shares)
        if value.is_floating_point():
            np.testing.assert_allclose(mean[name].numpy(), expected, rtol=1e-6)
        else:
            assert mean[name].dtype == value.dtype
            assert mean[name].tolist() == np.round(expected).tolist()


@pytest.mark.parametrize("shares", [[], [0.0]])
def test_a_mean_of_nothing_is_refused(server: ServerState, shares: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one positive share is needed"):
        weighted_mean([server.weights] * len(shares), shares)


def test_rows_are_matched_by_class_name_in_any_order(server: ServerState) -> None:
    update = update_of(server, 1, ("heart", "liver", "lung"))
    rows = matched_rows(update, server.weights, NAMES)
    for name in HEAD_ROWS:
        expected = torch.stack([update.weights[name][at] for at in (1, 2, 0)])
        assert torch.equal(rows[name], expected)


def test_a_row_that_an_update_does_not_know_has_no_change(server: ServerState) -> None:
    update = update_of(server, 1, ("heart",))
    rows = matched_rows(update, server.weights, NAMES)
    for name in HEAD_ROWS:
        assert torch.equal(rows[name][:2], server.weights[name][:2])
        assert torch.equal(rows[name][2], update.weights[name][0])
    mean = mean_of_arrived(server.weights, NAMES, [Arrived(update)], "equal")
    assert all(torch.equal(mean[name][:2], server.weights[name][:2]) for name in HEAD_ROWS)


def test_an_update_of_a_class_that_the_receiver_does_not_know_is_refused(
    server: ServerState,
) -> None:
    update = replace(update_of(server, 1), class_names=("liver", "lung", "spleen"))
    with pytest.raises(ValueError, match=r"has the classes spleen; allowed: .*liver, lung, heart"):
        matched_rows(update, server.weights, NAMES)


def test_weights_of_arrived_updates_are_factors_of_their_shares(server: ServerState) -> None:
    updates = [update_of(server, seed) for seed in (1, 2)]
    arrived = [Arrived(updates[0], age=3, weight=0.5), Arrived(updates[1])]
    by_images = mean_of_arrived(server.weights, NAMES, arrived, "by_images")
    equal = mean_of_arrived(server.weights, NAMES, arrived, "equal")
    for name in server.weights:
        both = [each.weights[name].double() for each in updates]
        if server.weights[name].is_floating_point():
            assert torch.allclose(by_images[name].double(), (5 * both[0] + 20 * both[1]) / 25)
            assert torch.allclose(equal[name].double(), (0.5 * both[0] + both[1]) / 1.5)


def test_aggregating_is_merging_fresh_updates_of_equal_weight(server: ServerState) -> None:
    updates = [update_of(server, seed) for seed in (1, 2, 3)]
    aggregated = FedAvg().aggregate(server, updates)
    merged = FedAvg().merge(server, [Arrived(each, age=0, weight=1.0) for each in updates])
    expected = weighted_mean([each.weights for each in updates], [10, 20, 30])
    for name, value in expected.items():
        assert torch.equal(aggregated.weights[name], value)
        assert torch.equal(merged.weights[name], value)
