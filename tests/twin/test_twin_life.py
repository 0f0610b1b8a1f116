import json
from dataclasses import replace
from typing import Any

import pydantic
import pytest
import torch

from federation.server import ServerState, grow_for_new_classes
from incremental.inference import features_of
from incremental.network import build_network
from physical.batch import Batch
from physical.hospital import Arrival, Hospital
from physical.transforms import to_tensor
from tests.twin.federation_of_one import (
    FIRST,
    METHOD,
    SECOND,
    announce,
    broadcast,
    deaf,
    hospital_of,
    live,
    look,
    named,
    positions_of,
    with_twin,
)
from twin.config import TwinConfig, TwinSetting
from twin.twin import DigitalTwin

# --- a life over two tasks ---


def test_a_twin_lives_through_two_tasks(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), setting)
    server, (first, quiet) = live(twin, server, 2)
    assert first.signal
    assert first.new_class_names == named(tiny_batch, FIRST) == server.class_names
    assert (first.num_new_images, first.num_trainable, first.entropy) == (40, 40, None)
    assert (quiet.signal, quiet.new_class_names, quiet.num_new_images) == (False, (), 0)
    assert twin.state.finished == ()

    second = look(twin, server)
    assert second.signal
    assert second.new_class_names == named(tiny_batch, SECOND)
    assert second.entropy is not None
    assert quiet.entropy is not None
    assert 0 <= quiet.entropy < second.entropy <= 1
    assert second.statistic is not None
    assert second.statistic > second.threshold
    state = twin.state
    assert state.finished == (named(tiny_batch, FIRST),)
    assert state.current_names == named(tiny_batch, SECOND)
    assert sorted(state.current) == positions_of(tiny_batch, SECOND).tolist()
    assert {name: len(each) for name, each in state.memory.positions.items()} == dict.fromkeys(
        named(tiny_batch, FIRST), 6
    )
    for name, each in state.memory.positions.items():
        assert {tiny_batch.vocabulary[label] for label in tiny_batch.labels[each]} == {name}

    server, _ = grow_for_new_classes(server, [second])
    update = twin.train(broadcast(server), METHOD)
    assert update.num_images == 40 + 12
    assert update.weights["head.bias"].shape == (4,)
    assert (update.twin_id, update.round) == ("north", 2)
    assert [event["round"] for event in twin.state.events] == sorted(
        event["round"] for event in twin.state.events
    )
    assert [when for when, _, signal in twin.state.entropy_history if signal] == [0, 2]


def test_exemplars_are_those_that_herding_chooses_with_the_global_model(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), setting)
    server, _ = live(twin, server, 2)
    look(twin, server)
    network = build_network(server.network, server.weights)
    for label in FIRST:
        own = positions_of(tiny_batch, (label,))
        features = torch.nn.functional.normalize(
            features_of(network, to_tensor(tiny_batch.images[own])).double(), dim=1
        )
        kept = twin.state.memory.positions[tiny_batch.vocabulary[label]]
        nearest = own[int((features - features.mean(0)).norm(dim=1).argmin())]
        assert kept[0] == nearest


def test_a_third_task_cuts_the_exemplars_of_the_first_to_their_best(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, (0, 1)), (1, (2, 3)), (2, (4,))), deaf(setting))
    server = announce(server, tiny_batch, (0, 1, 2, 3, 4))
    kept = []
    for round_number in range(3):
        begins = tuple(range(round_number + 1))
        look(twin, replace(server, round=round_number, task_begins=begins))
        kept.append(twin.state.memory.positions)
    first = tiny_batch.vocabulary[0]
    assert [len(positions) for positions in kept[2].values()] == [3, 3, 3, 3]
    assert kept[2][first].tolist() == kept[1][first][:3].tolist()
    assert len(twin.state.finished) == 2


def test_a_twin_that_detects_nothing_learns_from_the_class_list(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), deaf(setting))
    server, _ = live(twin, server, 2)
    server = announce(server, tiny_batch, SECOND)
    observation = look(twin, server)
    assert (observation.signal, observation.new_class_names) == (False, ())
    assert twin.state.finished == (named(tiny_batch, FIRST),)
    assert twin.state.current_names == named(tiny_batch, SECOND)
    assert len(twin.state.memory) == 12
    assert not len(twin.state.inbox)
    assert not twin.state.fresh_task  # whoever detected sends prototypes


def test_images_wait_in_the_inbox_while_their_class_is_unknown_to_the_federation(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), deaf(setting))
    server, _ = live(twin, server, 2)
    for _ in range(2):
        observation = look(twin, server)
        assert (observation.signal, observation.new_class_names, observation.num_trainable) == (
            False,
            (),
            40,
        )
        assert sorted(twin.state.inbox) == positions_of(tiny_batch, SECOND).tolist()
        assert twin.state.current_names == named(tiny_batch, FIRST)
        assert not twin.report()["converged"]
        twin.train(broadcast(server), METHOD)
        server = replace(server, round=server.round + 1)
    look(twin, announce(server, tiny_batch, SECOND))
    assert not len(twin.state.inbox)
    assert twin.report()["converged"]


def test_only_images_of_the_federations_classes_leave_the_inbox(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), deaf(setting))
    server, _ = live(twin, server, 2)
    look(twin, announce(server, tiny_batch, (0,)))
    assert twin.state.current_names == named(tiny_batch, (0,))
    assert sorted(twin.state.current) == positions_of(tiny_batch, (0,)).tolist()
    assert sorted(twin.state.inbox) == positions_of(tiny_batch, (3,)).tolist()


def test_further_images_of_the_same_classes_begin_no_task(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    own = positions_of(tiny_batch, FIRST)
    hospital = Hospital("north", tiny_batch, [Arrival(0, own[::2]), Arrival(1, own[1::2])])
    twin = DigitalTwin(hospital, setting)
    live(twin, server, 2)
    assert twin.state.finished == ()
    assert sorted(twin.state.current) == own.tolist()


def test_a_second_observation_in_a_round_changes_nothing(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), setting)
    server, _ = live(twin, server, 2)
    look(twin, server)
    before = twin.state
    again = look(twin, server)
    assert (again.signal, again.new_class_names, again.num_new_images, again.num_trainable) == (
        False,
        (),
        0,
        40,
    )
    for name in (
        "memory",
        "current",
        "held_back",
        "finished",
        "current_names",
        "events",
        "fresh_task",
    ):
        assert getattr(twin.state, name) is getattr(before, name) or getattr(
            twin.state, name
        ) == getattr(before, name), name


def test_a_second_observation_with_a_model_without_classes_changes_nothing(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(
        hospital_of(tiny_batch, (0, FIRST)), with_twin(setting, held_back_fraction=0.5)
    )
    look(twin, server)
    before = twin.state
    again = look(twin, server)
    assert (again.signal, again.new_class_names, again.num_correct) == (False, (), 0)
    assert twin.state.current is before.current
    assert twin.state.held_back is before.held_back


def test_a_twin_that_sees_nothing_new_keeps_its_task(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = live(twin, server, 2)
    server = announce(server, tiny_batch, SECOND)
    look(twin, server)
    assert twin.state.current_names == named(tiny_batch, FIRST)
    update = twin.train(broadcast(server), METHOD)
    assert update.weights["head.bias"].shape == (4,)
    assert update.num_images == 40


def test_a_late_hospital_notes_when_it_joined(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (4, FIRST)), setting)
    look(twin, replace(announce(server, tiny_batch, FIRST), round=4))
    assert twin.state.events[0] == {"round": 4, "what": "joined the federation"}
    assert twin.state.current_names == named(tiny_batch, FIRST)


def test_entropy_is_reported_as_a_fraction_that_never_exceeds_1(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    server = announce(server, tiny_batch, (0, 1, 2))
    server = replace(
        server,
        weights={**server.weights, "head.weight": torch.zeros(3, 8), "head.bias": torch.zeros(3)},
    )
    observation = look(DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting), server)
    assert observation.entropy == pytest.approx(1)
    assert observation.entropy is not None
    assert observation.entropy <= 1


def test_classes_noticed_soon_after_a_task_began_belong_to_it_and_lose_no_image(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), setting)
    live(twin, replace(server, settle_rounds=2), 3)
    assert set(twin.state.current_names) == set(named(tiny_batch, FIRST + SECOND))
    assert not twin.state.finished and not len(twin.state.memory) and twin.state.began_round == 0
    assert len(twin.state.current) == 80
    assert any("task grows" in event["what"] for event in twin.state.events)


# --- what a twin tells about itself ---


def test_a_report_is_plain_data_of_names_and_numbers(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), setting)
    server, _ = live(twin, server, 3)
    report = json.loads(json.dumps(twin.report()))
    assert report["twin"] == "north"
    assert report["reported"]["classes"] == sorted(named(tiny_batch, FIRST + SECOND))
    assert report["reported"]["current_images"] == dict.fromkeys(named(tiny_batch, SECOND), 20)
    assert sum(report["reported"]["exemplars"].values()) == 12
    assert report["desired"]["classes"] == list(server.class_names)
    assert report["converged"]
    assert len(json.dumps(report)) < 4000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"memory_capacity": -1}, "memory_capacity is -1"),
        ({"held_back_fraction": 0.6}, "held_back_fraction is 0.6"),
        ({"memory": 10}, "memory"),
        ({"detection": {"rule": "entropy_jump", "jump": 1}}, "jump"),
    ],
)
def test_an_impossible_twin_configuration_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        TwinConfig(**wrong)
