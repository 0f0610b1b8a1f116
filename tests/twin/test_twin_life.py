import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from federation.methods.fedavg import FedAvg
from federation.server import ServerState, grow_for_new_classes, new_server
from incremental.detection import DetectionConfig
from incremental.inference import features_of, logits_of
from incremental.network import IncrementalNetwork, build_network, weights_of
from physical.batch import Batch
from physical.hospital import Arrival, Hospital
from physical.transforms import to_tensor, to_unit
from twin.batches import TrainingBatch
from twin.config import TwinConfig, TwinSetting
from twin.messages import Broadcast, Observation, TwinUpdate
from twin.objective import LocalContext, Terms
from twin.state import from_plain, to_plain
from twin.twin import DigitalTwin

METHOD = FedAvg(memory=True)
FIRST, SECOND = (1, 2), (0, 3)  # red stripes arrive in round 0, plain images, which look like neither, in round 2


@dataclass
class Witness:
    """A method that writes down what a twin shows it."""

    replays: bool = True
    held_out_fraction: float = 0.0
    upload: dict[str, Tensor] = field(default_factory=dict)
    keep: dict[str, Tensor] = field(default_factory=dict)
    batches: list[TrainingBatch] = field(default_factory=list)
    contexts: list[LocalContext] = field(default_factory=list)
    prototypes: tuple[Tensor, Tensor] | None = None

    def local_loss(self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext) -> Terms:
        self.batches.append(batch)
        return {"fit": torch.nn.functional.cross_entropy(network(batch.images).logits, batch.rows)}

    def finish_local(self, network: IncrementalNetwork, context: LocalContext) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        self.contexts.append(context)
        assert context.prototypes is not None
        self.prototypes = context.prototypes(network)
        return self.upload, self.keep

    def images(self) -> set[bytes]:
        return {bytes_of(image) for batch in self.batches for image in batch.images}


def bytes_of(image: Tensor) -> bytes:
    return (image * 255).round().to(torch.uint8).numpy().tobytes()


def positions_of(batch: Batch, labels: tuple[int, ...]) -> NDArray[np.int64]:
    return np.flatnonzero(np.isin(batch.labels, labels))


def named(batch: Batch, labels: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(batch.vocabulary[label] for label in labels)


def hospital_of(batch: Batch, *arrivals: tuple[int, tuple[int, ...]], name: str = "north") -> Hospital:
    return Hospital(name, batch, [Arrival(when, positions_of(batch, labels)) for when, labels in arrivals])


def with_twin(setting: TwinSetting, **changes: Any) -> TwinSetting:
    return replace(setting, twin=TwinConfig(**{"memory_capacity": 12, "settle_rounds": 0, "detection": setting.twin.detection, **changes}))


def deaf(setting: TwinSetting, **changes: Any) -> TwinSetting:
    return with_twin(setting, detection=DetectionConfig(jump_fraction=0.99, reference_classes=1000), **changes)


def look(twin: DigitalTwin, server: ServerState) -> Observation:
    return twin.observe(server.model, build_network(server.network, server.weights))


def broadcast(server: ServerState, seed: int = 1) -> Broadcast:
    return replace(METHOD.broadcast(server, None, "any"), seed=seed)


def live(twin: DigitalTwin, server: ServerState, rounds: int) -> tuple[ServerState, list[Observation]]:
    """Rounds of a federation of one: look, grow, train, and take what comes back for the global model."""
    observations = []
    for _ in range(rounds):
        observations.append(look(twin, server))
        server, _ = grow_for_new_classes(server, observations[-1:])
        update = twin.train(broadcast(server, seed=server.round), METHOD)
        server = replace(server, weights=update.weights, round=server.round + 1)
    return server, observations


def share_named_rightly(server: ServerState, batch: Batch, positions: NDArray[np.int64]) -> float:
    rows = logits_of(build_network(server.network, server.weights), to_tensor(batch.images[positions])).argmax(1)
    return float(
        np.mean([server.class_names[row] == batch.vocabulary[label] for row, label in zip(rows, batch.labels[positions], strict=True)])
    )


@pytest.fixture
def setting(tiny_setting: TwinSetting) -> TwinSetting:
    return replace(tiny_setting, training=replace(tiny_setting.training, epochs=6))


@pytest.fixture
def server(setting: TwinSetting) -> ServerState:
    return new_server(setting.network, seed=1)


# --- a life over two tasks ---


def test_a_twin_lives_through_two_tasks(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
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
    assert {name: len(each) for name, each in state.memory.positions.items()} == dict.fromkeys(named(tiny_batch, FIRST), 6)
    for name, each in state.memory.positions.items():
        assert {tiny_batch.vocabulary[label] for label in tiny_batch.labels[each]} == {name}

    server, _ = grow_for_new_classes(server, [second])
    update = twin.train(broadcast(server), METHOD)
    assert update.num_images == 40 + 12
    assert update.weights["head.bias"].shape == (4,)
    assert (update.twin_id, update.round) == ("north", 2)
    assert [event["round"] for event in twin.state.events] == sorted(event["round"] for event in twin.state.events)
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
        features = torch.nn.functional.normalize(features_of(network, to_tensor(tiny_batch.images[own])).double(), dim=1)
        kept = twin.state.memory.positions[tiny_batch.vocabulary[label]]
        nearest = own[int((features - features.mean(0)).norm(dim=1).argmin())]
        assert kept[0] == nearest


def test_a_third_task_cuts_the_exemplars_of_the_first_to_their_best(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, (0, 1)), (1, (2, 3)), (2, (4,))), deaf(setting))
    server = announce(server, tiny_batch, (0, 1, 2, 3, 4))
    kept = []
    for round_number in range(3):
        look(twin, replace(server, round=round_number))
        kept.append(twin.state.memory.positions)
    first = tiny_batch.vocabulary[0]
    assert [len(positions) for positions in kept[2].values()] == [3, 3, 3, 3]
    assert kept[2][first].tolist() == kept[1][first][:3].tolist()
    assert len(twin.state.finished) == 2


def announce(server: ServerState, batch: Batch, labels: tuple[int, ...]) -> ServerState:
    """Return the server after another hospital has announced these classes."""
    return grow_for_new_classes(server, [Observation("south", server.round, 1, True, named(batch, labels))])[0]


def test_a_twin_that_detects_nothing_learns_from_the_class_list(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
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


def test_images_wait_in_the_inbox_while_nobody_knows_their_class(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), deaf(setting))
    server, _ = live(twin, server, 2)
    for _ in range(2):
        observation = look(twin, server)
        assert (observation.signal, observation.new_class_names, observation.num_trainable) == (False, (), 40)
        assert sorted(twin.state.inbox) == positions_of(tiny_batch, SECOND).tolist()
        assert twin.state.current_names == named(tiny_batch, FIRST)
        assert not twin.report()["converged"]
        twin.train(broadcast(server), METHOD)
        server = replace(server, round=server.round + 1)
    look(twin, announce(server, tiny_batch, SECOND))
    assert not len(twin.state.inbox)
    assert twin.report()["converged"]


def test_only_what_the_federation_knows_leaves_the_inbox(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), deaf(setting))
    server, _ = live(twin, server, 2)
    look(twin, announce(server, tiny_batch, (0,)))
    assert twin.state.current_names == named(tiny_batch, (0,))
    assert sorted(twin.state.current) == positions_of(tiny_batch, (0,)).tolist()
    assert sorted(twin.state.inbox) == positions_of(tiny_batch, (3,)).tolist()


def test_further_images_of_the_same_classes_begin_no_task(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    own = positions_of(tiny_batch, FIRST)
    hospital = Hospital("north", tiny_batch, [Arrival(0, own[::2]), Arrival(1, own[1::2])])
    twin = DigitalTwin(hospital, setting)
    live(twin, server, 2)
    assert twin.state.finished == ()
    assert sorted(twin.state.current) == own.tolist()


def test_a_second_look_in_a_round_changes_nothing(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), setting)
    server, _ = live(twin, server, 2)
    look(twin, server)
    before = twin.state
    again = look(twin, server)
    assert (again.signal, again.new_class_names, again.num_new_images, again.num_trainable) == (False, (), 0, 40)
    for name in ("memory", "current", "held_back", "finished", "current_names", "events", "fresh_task"):
        assert getattr(twin.state, name) is getattr(before, name) or getattr(twin.state, name) == getattr(before, name), name


def test_a_second_look_with_a_model_that_knows_nothing_changes_nothing(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), with_twin(setting, held_back_fraction=0.5))
    look(twin, server)
    before = twin.state
    again = look(twin, server)
    assert (again.signal, again.new_class_names, again.num_correct) == (False, (), 0)
    assert twin.state.current is before.current
    assert twin.state.held_back is before.held_back


def test_a_twin_that_sees_nothing_new_keeps_its_task(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = live(twin, server, 2)
    server = announce(server, tiny_batch, SECOND)
    look(twin, server)
    assert twin.state.current_names == named(tiny_batch, FIRST)
    update = twin.train(broadcast(server), METHOD)
    assert update.weights["head.bias"].shape == (4,)
    assert update.num_images == 40


def test_a_late_hospital_notes_when_it_joined(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (4, FIRST)), setting)
    look(twin, replace(announce(server, tiny_batch, FIRST), round=4))
    assert twin.state.events[0] == {"round": 4, "what": "joined the federation"}
    assert twin.state.current_names == named(tiny_batch, FIRST)


def test_an_entropy_is_told_as_a_fraction_that_never_exceeds_1(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    server = announce(server, tiny_batch, (0, 1, 2))
    server = replace(server, weights={**server.weights, "head.weight": torch.zeros(3, 8), "head.bias": torch.zeros(3)})
    observation = look(DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting), server)
    assert observation.entropy == pytest.approx(1)
    assert observation.entropy is not None
    assert observation.entropy <= 1


# --- training ---


def test_training_twice_with_one_broadcast_gives_identical_weights(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    setting = replace(setting, training=replace(setting.training, augmentation=type(setting.training.augmentation)(2, True, 0.2)))
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    message = broadcast(server)
    first, second = twin.train(message, METHOD), twin.train(message, METHOD)
    restored = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting, from_plain(*to_plain(twin.state)))
    third, other = restored.train(message, METHOD), twin.train(replace(message, seed=2), METHOD)
    for update in (second, third):
        assert all(torch.equal(first.weights[name], value) for name, value in update.weights.items())
        assert update.metrics == first.metrics
    assert not all(torch.equal(first.weights[name], value) for name, value in other.weights.items())


def test_training_leaves_the_broadcast_as_it_was(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    before = {name: value.clone() for name, value in server.weights.items()}
    update = twin.train(broadcast(server), METHOD)
    assert all(torch.equal(value, before[name]) for name, value in server.weights.items())
    assert not torch.equal(update.weights["head.weight"], before["head.weight"])


def test_a_twin_learns_its_classes(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = live(twin, server, 3)
    assert share_named_rightly(server, tiny_batch, positions_of(tiny_batch, FIRST)) > 0.95


@pytest.mark.parametrize("replays", [True, False])
def test_exemplars_are_trained_on_where_the_method_replays(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState, replays: bool
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), setting)
    server, _ = live(twin, server, 2)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    witness = Witness(replays)
    update = twin.train(broadcast(server), witness)
    expected = np.concatenate([twin.state.current, *(twin.state.memory.positions.values() if replays else ())])
    assert update.num_images == len(expected)
    pixels = to_unit(to_tensor(tiny_batch.images[expected]))
    assert witness.images() == {bytes_of(image) for image in pixels}


def test_rows_are_those_of_the_broadcasts_class_list(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server = announce(server, tiny_batch, (5, 2, 1))  # another hospital's class first, and the twin's two the other way round
    look(twin, server)
    witness = Witness()
    twin.train(broadcast(server), witness)
    labels = {bytes_of(image): label for image, label in zip(to_unit(to_tensor(tiny_batch.images)), tiny_batch.labels, strict=True)}
    for batch in witness.batches:
        for image, row in zip(batch.images, batch.rows, strict=True):
            assert server.class_names[row] == tiny_batch.vocabulary[labels[bytes_of(image)]]
    assert witness.contexts[0].groups == ((2, 1),)


def test_a_method_is_told_the_groups_of_its_twins_tasks(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), setting)
    server, _ = live(twin, server, 2)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    server = announce(server, tiny_batch, (7,))
    witness = Witness()
    twin.train(broadcast(server), witness)
    (context,) = witness.contexts
    assert context.groups == ((0, 1), (2, 3))
    assert (context.num_finished, context.num_current, context.num_rows) == (2, 2, 5)
    assert context.group_of_rows().tolist() == [0, 0, 1, 1, -1]
    assert context.fresh_task
    assert context.num_steps == len(witness.batches) == 6 * 4
    assert context.learning_rates == (0.2,) * 6


def test_a_task_is_fresh_until_its_twin_has_trained(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    witness = Witness()
    for _ in range(2):
        twin.train(broadcast(server), witness)
    assert [context.fresh_task for context in witness.contexts] == [True, False]


def test_a_method_uploads_and_keeps_what_it_says(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    witness = Witness(upload={"drift": torch.ones(2)}, keep={"control": torch.zeros(3)})
    update = twin.train(broadcast(server), witness)
    twin.train(broadcast(server), witness)
    assert update.upload.keys() == {"drift"}
    assert not witness.contexts[0].kept
    assert witness.contexts[1].kept.keys() == {"control"}


def test_prototypes_are_the_images_nearest_to_the_mean_of_each_current_class(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    witness = Witness()
    update = twin.train(broadcast(server), witness)
    network = build_network(server.network, update.weights)
    assert witness.prototypes is not None
    images, rows = witness.prototypes
    assert rows.tolist() == [0, 1]
    for image, label in zip(images, FIRST, strict=True):
        pixels = to_tensor(tiny_batch.images[positions_of(tiny_batch, (label,))])
        features = torch.nn.functional.normalize(features_of(network, pixels).double(), dim=1)
        nearest = int((features - features.mean(0)).norm(dim=1).argmin())
        torch.testing.assert_close(image, to_unit(pixels)[nearest])


def test_a_twin_without_an_image_of_a_known_class_says_so(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), deaf(setting))
    server = announce(server, tiny_batch, (5,))
    look(twin, server)
    with pytest.raises(ValueError, match="twin north was asked to train in round 0"):
        twin.train(broadcast(server), METHOD)


# --- held back ---


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_held_back_images_are_never_trained_on(tiny_batch: Batch, setting: TwinSetting, server: ServerState, fraction: float) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), with_twin(setting, held_back_fraction=fraction))
    witness, held = Witness(), set[int]()
    for _ in range(3):
        server, _ = grow_for_new_classes(server, [look(twin, server)])
        held |= set(twin.state.held_back.tolist())
        update = twin.train(broadcast(server, server.round), witness)
        server = replace(server, weights=update.weights, round=server.round + 1)
    assert len(twin.state.finished) == 1
    assert len(held) == 80 * fraction
    assert set(tiny_batch.labels[twin.state.held_back]) == set(SECOND)  # the open task's
    assert not held & set(twin.state.memory.all_positions().tolist())
    assert not witness.images() & {bytes_of(image) for image in to_unit(to_tensor(tiny_batch.images[sorted(held)]))}
    assert len(witness.images()) == 80 - len(held)


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.3, 0.4])
def test_the_share_that_is_held_back_is_the_one_asked_for(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState, fraction: float
) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), with_twin(setting, held_back_fraction=fraction))
    look(twin, server)
    assert len(twin.state.held_back) == pytest.approx(40 * fraction, abs=1)


@pytest.mark.parametrize("order", ["class by class", "alternating"])
def test_every_class_is_held_back_alike(tiny_batch: Batch, setting: TwinSetting, server: ServerState, order: str) -> None:
    own = positions_of(tiny_batch, FIRST)
    if order == "alternating":
        tiny_batch = tiny_batch.take(own.reshape(2, 20).T.flatten())
        own = np.arange(40)
    twin = DigitalTwin(Hospital("north", tiny_batch, [Arrival(0, own)]), with_twin(setting, held_back_fraction=0.25))
    look(twin, server)
    assert np.bincount(tiny_batch.labels[twin.state.held_back]).tolist() == [0, 5, 5]


def test_accuracy_is_told_of_images_that_were_held_back(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), with_twin(setting, held_back_fraction=0.5))
    server, (first, second, *_) = live(twin, server, 3)
    assert (first.num_held_back, first.num_correct, first.usual_entropy) == (0, 0, None)
    assert second.num_held_back == 20
    last = look(twin, server)
    held = twin.state.held_back
    assert last.num_correct == round(20 * share_named_rightly(server, tiny_batch, held)) > 10
    assert last.usual_entropy is not None
    assert len(last.usual_entropy) == 19
    assert list(last.usual_entropy) == sorted(last.usual_entropy)


def test_a_handful_of_held_back_entropies_is_not_told(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), with_twin(setting, held_back_fraction=0.25))
    server, _ = live(twin, server, 2)
    observation = look(twin, server)
    assert observation.num_held_back == 10
    assert observation.usual_entropy is None


def test_the_calibrated_rule_needs_images_that_are_held_back() -> None:
    with pytest.raises(pydantic.ValidationError, match=r"set held_back_fraction to 0\.1"):
        TwinConfig(detection=DetectionConfig(rule="calibrated"))


def test_the_calibrated_rule_notices_new_classes_and_no_known_ones(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    setting = with_twin(setting, held_back_fraction=0.5, detection=DetectionConfig(rule="calibrated"))
    own = positions_of(tiny_batch, FIRST)
    arrivals = [Arrival(0, own[: 2 * 10]), Arrival(0, own[20:]), Arrival(5, positions_of(tiny_batch, (0, 3, 6, 7)))]
    twin = DigitalTwin(Hospital("north", tiny_batch, arrivals), setting)
    server, observations = live(twin, server, 5)
    assert [observation.signal for observation in observations] == [True, False, False, False, False]
    found = look(twin, server)
    assert found.signal
    assert found.new_class_names == named(tiny_batch, (0, 3, 6, 7))


# --- what a twin tells about itself ---


def test_a_report_is_plain_data_of_names_and_numbers(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
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
def test_a_twin_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        TwinConfig(**wrong)


def test_an_update_is_a_copy_of_the_local_model(tiny_batch: Batch, setting: TwinSetting, server: ServerState) -> None:
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST)), setting)
    server, _ = grow_for_new_classes(server, [look(twin, server)])
    update: TwinUpdate = twin.train(broadcast(server), METHOD)
    assert update.weights.keys() == server.weights.keys()
    for name, value in weights_of(build_network(server.network, update.weights)).items():
        assert value.shape == server.weights[name].shape
        assert value.dtype == server.weights[name].dtype
    assert update.metrics.keys() == {"classification", "total", "gradient_norm"}


def test_classes_noticed_soon_after_a_task_began_belong_to_it_and_lose_no_image(
    tiny_batch: Batch, setting: TwinSetting, server: ServerState
) -> None:
    patient = replace(setting, twin=replace(setting.twin, settle_rounds=2))
    twin = DigitalTwin(hospital_of(tiny_batch, (0, FIRST), (2, SECOND)), patient)
    live(twin, server, 3)
    assert set(twin.state.current_names) == set(named(tiny_batch, FIRST + SECOND))
    assert not twin.state.finished and not len(twin.state.memory) and twin.state.began_round == 0
    assert len(twin.state.current) == 80
    assert any("task grows" in event["what"] for event in twin.state.events)
