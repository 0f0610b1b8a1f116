import re
from collections.abc import Callable
from dataclasses import replace

import pydantic
import pytest
import torch

from federation.screening import ScreeningConfig, screen
from federation.server import ServerState, grow_for_new_classes, new_server
from incremental.head import Weights
from incremental.network import NetworkConfig
from twin.messages import Observation, TwinUpdate

CONFIG = ScreeningConfig()


@pytest.fixture
def server(tiny_network: NetworkConfig) -> ServerState:
    return grow_for_new_classes(new_server(tiny_network, 1), [Observation("north", 0, 1, True, ("liver", "lung"))])[0]


def update_of(server: ServerState, **changes: torch.Tensor) -> TwinUpdate:
    weights = {name: value.clone() for name, value in server.weights.items()}
    return TwinUpdate("north", server.round, weights | changes, num_images=5)


def reason(update: TwinUpdate, server: ServerState, config: ScreeningConfig = CONFIG) -> str | None:
    accepted, rejected = screen([update], server, config)
    assert len(accepted) + len(rejected) == 1
    return rejected[0].reason if rejected else None


def test_an_honest_update_is_accepted(server: ServerState) -> None:
    assert reason(update_of(server, **{"head.bias": server.weights["head.bias"] + 0.1}), server) is None


def test_a_bad_update_does_not_touch_the_others(server: ServerState) -> None:
    good = replace(update_of(server), twin_id="south")
    bad = update_of(server, **{"head.bias": torch.full((2,), torch.nan)})
    accepted, rejected = screen([bad, good, bad], server, CONFIG)
    assert accepted == (good,)
    assert [each.twin_id for each in rejected] == ["north", "north"]


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("head.bias"), "other tensors than the global model: head.bias"),
        (lambda weights: weights | {"images": torch.zeros(1)}, "other tensors than the global model: images"),
        (lambda weights: weights | {"head.bias": torch.zeros(3)}, r"head.bias is torch.float32 \(3,\)"),
        (lambda weights: weights | {"head.bias": torch.zeros(2, dtype=torch.float64)}, "head.bias is torch.float64"),
        (lambda weights: weights | {"head.bias": torch.tensor([0.0, torch.inf])}, "head.bias holds values that are not finite"),
        (lambda weights: weights | {"backbone.first.1.running_var": torch.full((4,), torch.nan)}, "not finite"),
        (lambda weights: weights | {"head.bias": torch.full((2,), 1e6)}, "times the global norm; allowed: 10"),
        (lambda weights: weights | {"head.bias": torch.full((2,), 3e38)}, "times the global norm; allowed: 10"),
    ],
)
def test_weights_that_do_not_fit_are_turned_away_with_the_reason(
    server: ServerState, change: Callable[[Weights], Weights], message: str
) -> None:
    update = update_of(server)
    found = reason(replace(update, weights=change(update.weights)), server)
    assert found is not None
    assert re.search(message, found), found


def test_an_update_of_another_round_is_turned_away(server: ServerState) -> None:
    found = reason(replace(update_of(server), round=3), server)
    assert found == "belongs to round 3; this is round 0"


@pytest.mark.parametrize("count", [0, -4])
def test_an_update_without_images_is_turned_away(server: ServerState, count: int) -> None:
    found = reason(replace(update_of(server), num_images=count), server)
    assert found == f"claims to be trained on {count} images"


def test_an_upload_that_is_not_finite_is_turned_away(server: ServerState) -> None:
    found = reason(replace(update_of(server), upload={"drift": torch.tensor([torch.nan])}), server)
    assert found == "drift holds values that are not finite"
    assert reason(replace(update_of(server), upload={"shape": torch.tensor([3, 16, 16])}), server) is None


def test_an_upload_cannot_hide_weights_that_are_not_finite(server: ServerState) -> None:
    update = replace(update_of(server, **{"head.bias": torch.full((2,), torch.nan)}), upload={"head.bias": torch.zeros(2)})
    assert reason(update, server) == "head.bias holds values that are not finite"


def test_statistics_of_batch_normalisation_may_follow_the_data(server: ServerState) -> None:
    update = update_of(server, **{"backbone.first.1.running_mean": torch.full((4,), 1e6)})
    assert reason(update, server) is None


def test_the_limit_is_a_multiple_of_the_global_norm(server: ServerState) -> None:
    parameters = {name: value for name, value in server.weights.items() if value.is_floating_point() and "running_" not in name}
    grown = update_of(server, **{name: 4.0 * value for name, value in parameters.items()})  # changed by 3 times its norm
    assert reason(grown, server, ScreeningConfig(max_relative_change=3.01)) is None
    assert reason(grown, server, ScreeningConfig(max_relative_change=2.99)) == "changed by 3.0 times the global norm; allowed: 2.99"


def test_an_all_zero_global_model_does_not_stop_the_round(server: ServerState) -> None:
    zero = replace(server, weights={name: torch.zeros_like(value) for name, value in server.weights.items()})
    assert reason(update_of(server), zero) is not None


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_that_turns_everybody_away_is_refused(limit: float) -> None:
    with pytest.raises(pydantic.ValidationError, match="allowed: above 0"):
        ScreeningConfig(max_relative_change=limit)
