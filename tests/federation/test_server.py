from dataclasses import replace

import numpy as np
import pytest
import torch

from federation.server import ServerState, grow_for_new_classes, new_server, with_usual_entropy
from incremental.head import HEAD_ROWS
from incremental.network import NetworkConfig
from twin.messages import Observation


def saw(*names: str, twin: str = "north") -> Observation:
    return Observation(twin, 0, 1, bool(names), names)


@pytest.fixture
def server(tiny_network: NetworkConfig) -> ServerState:
    return new_server(tiny_network, seed=1)


def test_a_new_server_knows_no_class(server: ServerState) -> None:
    assert server.class_names == ()
    assert len(server.weights["head.bias"]) == 0
    assert (server.round, server.task_begins, server.rounds_since_task_began) == (0, (), 0)


def test_servers_of_one_seed_are_equal(tiny_network: NetworkConfig, server: ServerState) -> None:
    same, other = new_server(tiny_network, 1), new_server(tiny_network, 2)
    assert all(torch.equal(value, same.weights[name]) for name, value in server.weights.items())
    assert not torch.equal(
        server.weights["backbone.first.0.weight"], other.weights["backbone.first.0.weight"]
    )


def test_each_announced_class_gets_one_row_in_the_order_of_announcement(
    server: ServerState,
) -> None:
    grown, added = grow_for_new_classes(
        server, [saw("lung", "liver"), saw(), saw("heart", "lung", twin="south")]
    )
    assert added == grown.class_names == ("lung", "liver", "heart")
    assert grown.weights["head.weight"].shape == (3, 8)


def test_growing_keeps_the_rows_of_known_classes_bit_for_bit(server: ServerState) -> None:
    first, _ = grow_for_new_classes(server, [saw("liver", "lung")])
    second, added = grow_for_new_classes(replace(first, round=5), [saw("lung", "heart")])
    assert added == ("heart",)
    assert second.class_names == ("liver", "lung", "heart")
    for name in HEAD_ROWS:
        assert torch.equal(second.weights[name][:2], first.weights[name])
    assert second.task_begins == (0, 5)
    assert (second.round, second.rounds_since_task_began) == (5, 0)
    assert replace(second, round=8).rounds_since_task_began == 3


@pytest.mark.parametrize("observations", [[], [saw()], [saw("liver")]])
def test_nothing_new_changes_nothing(server: ServerState, observations: list[Observation]) -> None:
    server, _ = grow_for_new_classes(server, [saw("liver")])
    same, added = grow_for_new_classes(server, observations)
    assert same is server
    assert added == ()


def test_growing_leaves_the_old_state_as_it_was(server: ServerState) -> None:
    grow_for_new_classes(server, [saw("liver")])
    assert server.class_names == ()
    assert len(server.weights["head.bias"]) == 0


def test_new_rows_depend_on_the_seed_and_the_names(server: ServerState) -> None:
    rows = [
        grow_for_new_classes(each, [saw(name)])[0].weights["head.weight"]
        for each, name in (
            (server, "liver"),
            (server, "liver"),
            (server, "lung"),
            (replace(server, seed=2), "liver"),
        )
    ]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert not torch.equal(rows[0], rows[3])


def test_the_message_to_the_twins_is_the_servers_model(server: ServerState) -> None:
    grown = replace(
        grow_for_new_classes(server, [saw("liver")])[0],
        round=3,
        usual_entropy=(0.5,),
        usual_images=7,
    )
    message = grown.model
    assert message.weights is grown.weights
    assert (message.class_names, message.round, message.usual_entropy, message.usual_images) == (
        ("liver",),
        3,
        (0.5,),
        7,
    )


def test_usual_entropies_are_a_mean_over_twins_counted_by_their_images(server: ServerState) -> None:
    low, high = (tuple(np.linspace(start, start + 1, 19).tolist()) for start in (0.0, 2.0))
    observations = [
        replace(saw(), usual_entropy=low, num_held_back=30),
        replace(saw(), usual_entropy=None, num_held_back=500),
        replace(saw(), usual_entropy=high, num_held_back=10),
    ]
    told = with_usual_entropy(server, observations)
    assert told.usual_entropy == pytest.approx(np.linspace(0.5, 1.5, 19))
    assert told.usual_images == 40


def test_without_reports_usual_entropies_stay_what_they_were(server: ServerState) -> None:
    told = replace(server, usual_entropy=(0.1,), usual_images=3)
    assert with_usual_entropy(told, [saw(), saw("liver")]) is told


def test_a_late_class_joins_the_open_task_and_does_not_restart_its_clock(
    server: ServerState,
) -> None:
    first, _ = grow_for_new_classes(server, [saw("liver")])
    late, added = grow_for_new_classes(replace(first, round=2), [saw("lung")])
    assert added == ("lung",)
    assert (late.task, late.task_begins, late.rounds_since_task_began) == (1, (0,), 2)
    later, _ = grow_for_new_classes(replace(late, round=3), [saw("heart")])
    assert (later.task, later.task_begins, later.rounds_since_task_began) == (2, (0, 3), 0)


@pytest.mark.parametrize(
    ("settle_rounds", "round_number", "task"), [(0, 1, 2), (1, 1, 1), (1, 2, 2), (2, 2, 1)]
)
def test_twins_are_told_the_task_of_classes_that_they_announce(
    tiny_network: NetworkConfig, settle_rounds: int, round_number: int, task: int
) -> None:
    server, _ = grow_for_new_classes(new_server(tiny_network, 1, settle_rounds), [saw("liver")])
    message = replace(server, round=round_number).model
    assert (message.task, message.task_of_new_classes) == (1, task)
    grown, _ = grow_for_new_classes(replace(server, round=round_number), [saw("lung")])
    assert grown.task == task
