from collections.abc import Callable
from dataclasses import replace
from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor

from federation.methods.fedavg import FedAvg
from federation.methods.flwf2t import FLwF2T, own_teacher
from federation.server import ServerState
from incremental.head import grow_head
from incremental.network import NetworkConfig, build_network, initial_weights, weights_of
from incremental.weight_tensors import labelled, with_label


def softened(logits: list[float], temperature: float) -> list[float]:
    powers = [exp(value / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


def divergence_by_hand(logits: Tensor, teacher_logits: Tensor, temperature: float) -> float:
    total, known = 0.0, teacher_logits.shape[1]
    for student, teacher in zip(logits.tolist(), teacher_logits.tolist(), strict=True):
        q, p = softened(teacher, temperature), softened(student[:known], temperature)
        total += sum(one * log(one / other) for one, other in zip(q, p, strict=True))
    return total / len(logits)


@pytest.fixture
def taught(scene: Any, tiny_network: NetworkConfig) -> tuple[Any, ...]:
    """A twin with a teacher of three classes of its own; the server's teaches four of five rows."""
    generator = torch.Generator().manual_seed(8)
    own = grow_head(initial_weights(tiny_network, 3), 3, generator)
    received = grow_head(initial_weights(tiny_network, 4), 5, generator)
    own["head.weight"] *= 8
    kept = {
        **labelled("previous", own),
        **labelled("latest", weights_of(scene.network)),
        "finished_tasks": torch.tensor(2),
    }
    context = replace(
        scene.context, global_weights=received, kept=kept, extras={"taught_rows": torch.tensor(4)}
    )
    return (
        scene,
        context,
        build_network(tiny_network, own).eval(),
        build_network(tiny_network, received).eval(),
    )


@pytest.mark.parametrize("memory", [False, True])
def test_without_teachers_it_is_fedavg_bit_for_bit(
    play: Callable[..., Any], same: Callable[..., Any], memory: bool
) -> None:
    assert same(
        play(FLwF2T(1.0, 0.0, memory=memory)).server.weights,
        play(FedAvg(memory=memory)).server.weights,
    )


def test_the_loss_is_the_slow_loop_of_the_equation(taught: tuple[Any, ...]) -> None:
    scene, context, own, server = taught
    images, logits = scene.batch.images, scene.logits()
    terms = scene.terms(FLwF2T(0.2, 0.5, temperature=3.0), context)
    expected = {
        "classification": 0.2 * scene.terms(FedAvg())["classification"].item(),
        "own_distillation": 0.5 * divergence_by_hand(logits, own(images).logits.detach(), 3.0),
        "server_distillation": 0.3
        * divergence_by_hand(logits, server(images).logits[:, :4].detach(), 3.0),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-4)


def test_an_absent_teachers_share_goes_to_the_others_in_proportion(taught: tuple[Any, ...]) -> None:
    scene, context, _, _ = taught
    method, fit = FLwF2T(0.2, 0.5), scene.terms(FedAvg())["classification"].item()
    full = {name: term.item() for name, term in scene.terms(method, context).items()}
    newcomer = scene.terms(method, replace(context, kept={}))
    assert newcomer["classification"].item() == pytest.approx(0.4 * fit)
    assert newcomer["server_distillation"].item() == pytest.approx(full["server_distillation"] * 2)
    untaught = scene.terms(method, replace(context, extras={}))
    assert untaught.keys() == {"classification", "own_distillation"}
    assert untaught["own_distillation"].item() == pytest.approx(full["own_distillation"] / 0.7)
    alone = scene.terms(method, replace(context, kept={}, extras={}))
    assert alone.keys() == {"classification"} and alone["classification"].item() == fit


def test_teachers_equal_to_the_student_cost_nothing(scene: Any) -> None:
    same_model = labelled("previous", weights_of(scene.network))
    context = replace(
        scene.context,
        kept={**same_model, "finished_tasks": torch.tensor(2)},
        extras={"taught_rows": torch.tensor(5)},
    )
    terms = scene.terms(FLwF2T(), context)
    assert terms["own_distillation"].item() == pytest.approx(0, abs=1e-6)
    assert terms["server_distillation"].item() == pytest.approx(0, abs=1e-6)


def test_the_latest_model_becomes_the_own_teacher_when_the_twins_task_ends(scene: Any) -> None:
    first = replace(scene.context, groups=((0, 1),), kept={})
    assert own_teacher(first) == {}
    method = FLwF2T()
    _, kept = method.finish_local(scene.network, first)
    assert own_teacher(replace(first, kept=kept)) == {}  # the same task goes on
    second = replace(first, groups=((0, 1), (2, 3)), kept=kept)
    ended = weights_of(scene.network)
    with torch.no_grad():
        scene.network.head.bias += 1
    for _ in range(2):  # the teacher stays while the task goes on
        teacher = own_teacher(second)
        assert teacher.keys() == ended.keys() and all(
            torch.equal(teacher[name], ended[name]) for name in ended
        )
        second = replace(second, kept=method.finish_local(scene.network, second)[1])
    third = replace(second, groups=((0, 1), (2, 3), (4,)))
    assert torch.equal(own_teacher(third)["head.bias"], ended["head.bias"] + 1)


def test_rows_added_in_this_round_are_not_taught_by_the_server(grown: ServerState) -> None:
    from twin.messages import TwinUpdate

    method = FLwF2T()
    assert not method.broadcast(grown, None, "north").extras
    after = method.aggregate(
        grown, [TwinUpdate("north", 0, dict(grown.weights), 3, class_names=grown.class_names)]
    )
    wider = grow_head(dict(after.weights), 2, torch.Generator().manual_seed(0))
    assert (
        int(method.broadcast(replace(after, weights=wider), None, "north").extras["taught_rows"])
        == 5
    )


def test_nothing_but_the_model_crosses_the_wall_and_the_seed_decides(
    play: Callable[..., Any], same: Callable[..., Any], assert_wall: Callable[..., Any]
) -> None:
    played = play(FLwF2T())
    assert_wall(played, set())
    assert not FLwF2T.uploads
    assert len(played.server.task_begins) > 2
    assert {name for each in played.updates for name in each.metrics} > {
        "own_distillation",
        "server_distillation",
    }
    again = play(FLwF2T())
    assert same(played.server.weights, again.server.weights)
    for twin_id, state in played.engine.states.items():
        assert same(state.kept, again.engine.states[twin_id].kept)
        assert with_label("latest", state.kept).keys() == played.server.weights.keys()
    assert not same(played.server.weights, play(FedAvg()).server.weights)


@pytest.mark.parametrize(
    "settings",
    [
        {"classification_weight": 0.0},
        {"own_weight": 0.6},
        {"own_weight": -0.1},
        {"temperature": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed: "):
        FLwF2T(**settings)


def test_shares_that_leave_nothing_to_the_server_leave_exactly_nothing() -> None:
    assert FLwF2T(0.7, 0.3).server_weight == 0.0
    assert FLwF2T(0.5, 0.25).server_weight == 0.25
