from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from federation.methods.fedavg import FedAvg
from federation.methods.fedcurv import FedCurv, curvature_of_others, fisher_diagonal
from federation.server import ServerState
from incremental.network import IncrementalNetwork
from incremental.weight_tensors import parameters_of, with_label
from twin.messages import TwinUpdate

TWINS = ("north", "east", "south")


def shaken(weights: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noise = {
        name: 0.1 * torch.randn(value.shape, generator=generator) for name, value in weights.items()
    }
    return {
        name: value + noise[name] if value.is_floating_point() else value
        for name, value in weights.items()
    }


def update_of(server: ServerState, twin_id: str, seed: int) -> TwinUpdate:
    weights = shaken(server.weights, seed)
    fisher = {
        f"fisher/{name}": value.square()
        for name, value in parameters_of(shaken(server.weights, seed + 100)).items()
    }
    return TwinUpdate(twin_id, server.round, weights, 10, fisher, class_names=server.class_names)


def kept_of(update: TwinUpdate) -> dict[str, Tensor]:
    fisher = with_label("fisher", update.upload)
    pull = {f"pull/{name}": value * update.weights[name] for name, value in fisher.items()}
    return {**update.upload, **pull, "round": torch.tensor(update.round)}


@pytest.fixture
def exchanged(grown: ServerState) -> tuple[Any, ...]:
    """Three twins' updates, and the server that has summed them."""
    updates = {name: update_of(grown, name, seed) for seed, name in enumerate(TWINS)}
    return updates, replace(FedCurv().aggregate(grown, list(updates.values())), round=1)


def slow_penalty(network: IncrementalNetwork, updates: list[TwinUpdate]) -> Tensor:
    """Sum over twins and over single weights of I (theta - theta_j)^2."""
    total = torch.zeros(())
    for update in updates:
        for name, value in network.named_parameters():
            total = (
                total
                + (update.upload[f"fisher/{name}"] * (value - update.weights[name]) ** 2).sum()
            )
    return total


@pytest.mark.parametrize("memory", [False, True])
def test_without_curvature_it_is_fedavg_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any], memory: bool
) -> None:
    played = play(FedCurv(curvature_weight=0.0, memory=memory))
    assert same(played.server.weights, play(FedAvg(memory=memory)).server.weights)
    assert not any(each.upload for each in played.updates)


def test_the_first_round_is_fedavg_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any]
) -> None:
    assert same(
        play(FedCurv(fisher_images=3), rounds=1).server.weights,
        play(FedAvg(), rounds=1).server.weights,
    )


@pytest.mark.parametrize("twin_id", [*TWINS, "newcomer"])
def test_the_term_is_the_equations_sum_over_the_other_twins_but_for_a_constant(
    scene: Any, exchanged: tuple[Any, ...], twin_id: str
) -> None:
    updates, server = exchanged
    method = FedCurv(curvature_weight=0.3)
    kept = kept_of(updates[twin_id]) if twin_id in updates else {}
    context = replace(
        scene.context, extras=method.broadcast(server, None, twin_id).extras, kept=kept
    )
    others = [update for name, update in updates.items() if name != twin_id]
    differences = []
    for _ in range(2):
        term, expected = (
            scene.terms(method, context)["curvature"],
            0.3 * slow_penalty(scene.network, others),
        )
        found = torch.autograd.grad(term, list(scene.network.parameters()))
        wanted = torch.autograd.grad(expected, list(scene.network.parameters()))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert term.item() >= 0
        differences.append((expected - term).item())
        with torch.no_grad():
            for value in scene.network.parameters():
                value += 0.2
    assert differences[0] == pytest.approx(differences[1], rel=1e-3)


def test_the_fisher_information_is_the_mean_squared_gradient_of_single_images(scene: Any) -> None:
    found = fisher_diagonal(scene.network, scene.batch.images, scene.batch.rows, "ce")
    scene.network.eval()
    expected = {name: torch.zeros_like(value) for name, value in scene.network.named_parameters()}
    for index in range(len(scene.batch.rows)):
        scene.network.zero_grad()
        logits = scene.network(scene.batch.images[index : index + 1]).logits
        functional.nll_loss(
            functional.log_softmax(logits, 1), scene.batch.rows[index : index + 1]
        ).backward()
        for name, value in scene.network.named_parameters():
            expected[name] += value.grad**2 / len(scene.batch.rows)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_rows_that_the_head_gained_since_count_nothing(
    scene: Any, exchanged: tuple[Any, ...]
) -> None:
    updates, server = exchanged
    method = FedCurv()
    grown = {**server.weights, "head.weight": torch.ones(7, 8), "head.bias": torch.ones(7)}
    extras = method.broadcast(replace(server, weights=grown), None, "north").extras
    assert len(extras["fisher/head.bias"]) == len(extras["pull/head.weight"]) == 7
    context = replace(scene.context, num_rows=7, extras=extras, kept=kept_of(updates["north"]))
    curvatures, centres = cast(Any, curvature_of_others(context))
    for each in (curvatures, centres):
        assert not each["head.bias"][5:].any() and not each["head.weight"][5:].any()
        assert each["head.bias"][:5].any()


def test_a_twin_that_was_turned_away_takes_nothing_out_of_sums_that_do_not_hold_it(
    scene: Any, exchanged: tuple[Any, ...]
) -> None:
    updates, server = exchanged
    server = FedCurv().aggregate(
        replace(server, round=1), [replace(updates[name], round=1) for name in ("north", "east")]
    )
    extras = FedCurv().broadcast(replace(server, round=2), None, "south").extras
    context = replace(scene.context, extras=extras, kept=kept_of(updates["south"]))
    assert int(extras["own_round"]) == -1
    curvatures, _ = cast(Any, curvature_of_others(context))
    torch.testing.assert_close(curvatures["head.bias"], server.kept["fisher/head.bias"])
    trained_since = {**kept_of(updates["north"]), "round": torch.tensor(2)}
    context = replace(
        context,
        extras=FedCurv().broadcast(replace(server, round=2), None, "north").extras,
        kept=trained_since,
    )
    curvatures, _ = cast(Any, curvature_of_others(context))
    torch.testing.assert_close(curvatures["head.bias"], server.kept["fisher/head.bias"])


def test_a_twin_alone_has_nobody_to_be_held_by(scene: Any, grown: ServerState) -> None:
    update = update_of(grown, "north", 0)
    server = replace(FedCurv().aggregate(grown, [update]), round=1)
    context = replace(
        scene.context,
        extras=FedCurv().broadcast(server, None, "north").extras,
        kept=kept_of(update),
    )
    assert scene.terms(FedCurv(), context)["curvature"].item() == 0


def damaged(upload: dict[str, Tensor], how: str) -> dict[str, Any]:
    if how == "missing":
        return {name: value for name, value in upload.items() if name != "fisher/head.bias"}
    change = {
        "negative": lambda value: -value,
        "shape": lambda value: value[:2],
        "type": lambda value: value.double(),
        "none": None,
    }[how]
    return (
        {} if change is None else {**upload, "fisher/head.bias": change(upload["fisher/head.bias"])}
    )


@pytest.mark.parametrize("how", ["missing", "negative", "shape", "type", "none"])
def test_an_upload_that_does_not_fit_is_left_out_of_the_sums(grown: ServerState, how: str) -> None:
    good, bad = update_of(grown, "north", 0), update_of(grown, "east", 1)
    bad = replace(bad, upload=damaged(cast(Any, bad.upload), how))
    server = FedCurv().aggregate(grown, [good, bad])
    assert {name for name in server.kept if name.startswith("summed/")} == {"summed/north"}
    torch.testing.assert_close(server.kept["fisher/head.bias"], good.upload["fisher/head.bias"])
    assert not FedCurv().aggregate(grown, [bad]).kept


def test_only_the_declared_information_crosses_the_wall_and_the_seed_decides(
    play: Callable[..., Any], same: Callable[..., Any], assert_wall: Callable[..., Any]
) -> None:
    method = FedCurv(fisher_images=4, memory=True)
    played = play(method)
    assert FedCurv.uploads
    assert_wall(played, {f"fisher/{name}" for name in parameters_of(played.server.weights)})
    assert len(played.server.task_begins) > 2
    assert any(each.metrics.get("curvature", 0) > 0 for each in played.updates)
    again = play(method)
    assert same(played.server.weights, again.server.weights) and same(
        played.server.kept, again.server.kept
    )
    assert not same(played.server.weights, play(FedAvg(memory=True)).server.weights)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"curvature_weight is -1.0; allowed: 0 or more"):
        FedCurv(curvature_weight=-1.0)
    with pytest.raises(ValueError, match="fisher_images is 0; allowed: 1 or more"):
        FedCurv(fisher_images=0)
