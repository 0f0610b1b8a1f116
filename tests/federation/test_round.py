from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from federation.engines.choice import EngineConfig, make_engine
from federation.engines.sequential import SequentialEngine
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.engines.twin_states import StateFolder
from federation.methods.fedavg import FedAvg
from federation.methods.fedka import FedKA
from federation.round import RoundConfig, choose_observers, choose_twins, run_round
from federation.server import new_server
from incremental.detection import DetectionConfig
from incremental.network import NetworkConfig
from incremental.proxy import ProxyConfig, ProxyServer
from incremental.reconstruction import ReconstructionConfig
from physical.batch import Batch
from physical.hospital import Arrival
from twin.config import TwinConfig, TwinSetting
from twin.local_training import TrainingConfig
from twin.messages import Observation, TwinUpdate

NETWORK = NetworkConfig(backbone="lenet", width=4, image_size=16, channels=1)
FEW_STEPS = ReconstructionConfig(perturb_steps=3, invert_steps=5)


@pytest.fixture(scope="module")
def hospitals() -> SimulatedHospitals:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 150)
    centres = rng.integers(40, 216, (4, 16, 16, 1))
    images = np.clip(centres[labels] + rng.normal(0, 20, (600, 16, 16, 1)), 0, 255).astype(np.uint8)
    archive = Batch(images, labels, ("liver", "heart", "spleen", "bladder"))
    order = rng.permutation(600)
    first, second = order[labels[order] < 2], order[labels[order] >= 2]
    arrivals = {
        name: (Arrival(0, np.sort(first[index::3])), Arrival(3, np.sort(second[index::3])))
        for index, name in enumerate(("north", "east", "south"))
    }
    twin = TwinConfig(
        memory_capacity=12, held_back_fraction=0.25, detection=DetectionConfig(rule="calibrated")
    )
    training = TrainingConfig(epochs=2, batch_size=8, learning_rate=0.05, momentum=0.9)
    return SimulatedHospitals(
        archive,
        arrivals,
        dict.fromkeys(arrivals, 0),
        TwinSetting(twin, NETWORK, training, rounds_per_task=3),
    )


def play(
    hospitals: SimulatedHospitals,
    method: FedAvg | FedKA,
    rounds: int,
    engine: Any = None,
    poison: Callable[..., Any] | None = None,
    config: RoundConfig | None = None,
) -> tuple[Any, ...]:
    engine = engine or SequentialEngine(hospitals)
    server, proxy, records = (
        new_server(NETWORK, seed=3, settle_rounds=0),
        ProxyServer(ProxyConfig()),
        [],
    )
    for _ in range(rounds):
        server, record = run_round(
            server,
            cast(Any, Poisoned(engine, poison) if poison else engine),
            method,
            proxy,
            config or RoundConfig(),
        )
        records.append(record)
    return server, proxy, records


class Poisoned:
    """An engine one of whose twins returns damaged updates."""

    def __init__(self, engine: SequentialEngine, damage: Callable[..., Any]) -> None:
        self.engine, self.damage = engine, damage

    def present(self, round_number: int) -> tuple[str, ...]:
        return cast(Any, self.engine.present(round_number))

    def observe(self, model: Any, twin_ids: Any) -> Any:
        return list(self.engine.observe(model, twin_ids))

    def train(self, method: Any, broadcasts: Any) -> Any:
        return [
            self.damage(each) if each.twin_id == "east" else each
            for each in self.engine.train(method, broadcasts)
        ]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_first_round_grows_the_head_from_nothing_because_twins_announce_classes(
    hospitals: SimulatedHospitals,
) -> None:
    server, _, (record,) = play(hospitals, FedAvg(), 1)
    assert set(server.class_names) == {"liver", "heart"} == set(record.grew)
    assert server.weights["head.weight"].shape[0] == 2
    assert all(each.signal for each in record.observations)


def test_growth_is_driven_by_detection_and_closes_the_task(hospitals: SimulatedHospitals) -> None:
    server, proxy, records = play(hospitals, FedKA(head_loss="ce", reconstruction=FEW_STEPS), 5)
    assert set(records[3].grew) == {"spleen", "bladder"}
    assert records[3].closed is not None and proxy.old_model is records[3].closed
    assert set(proxy.old_model.class_names) == {"liver", "heart"}
    assert server.task_begins == (0, 3)
    assert {"semantic", "attention"} <= records[4].accepted[0].metrics.keys()


def test_without_detection_nothing_grows_and_images_wait(hospitals: SimulatedHospitals) -> None:
    deaf = replace(
        hospitals,
        setting=replace(
            hospitals.setting, twin=TwinConfig(detection=DetectionConfig(jump_fraction=0.999))
        ),
    )
    engine = SequentialEngine(deaf)
    server, _, records = play(deaf, FedAvg(), 5, engine)
    assert set(server.class_names) == {"liver", "heart"}
    assert all(len(state.inbox) for state in engine.states.values())
    assert not any(record.grew for record in records[1:])


def test_the_same_seed_gives_the_same_weights_twice(hospitals: SimulatedHospitals) -> None:
    method = FedKA(head_loss="ce", reconstruction=FEW_STEPS)
    assert same(play(hospitals, method, 5)[0].weights, play(hospitals, method, 5)[0].weights)


def test_processes_debug_and_a_dictionary_equal_sequential_bit_for_bit(
    hospitals: SimulatedHospitals, tmp_path: Path
) -> None:
    method = FedKA(head_loss="ce", reconstruction=FEW_STEPS)
    expected, _, _ = play(
        hospitals,
        method,
        5,
        make_engine(EngineConfig(threads=1), hospitals, StateFolder(tmp_path / "sequential")),
    )
    debug, _, _ = play(
        hospitals,
        method,
        5,
        make_engine(
            EngineConfig(name="debug", threads=1), hospitals, StateFolder(tmp_path / "debug")
        ),
    )
    assert same(
        expected.weights, play(hospitals, method, 5, SequentialEngine(hospitals))[0].weights
    )
    engine = make_engine(
        EngineConfig(name="processes", threads=1, workers=2),
        hospitals,
        StateFolder(tmp_path / "processes"),
    )
    try:
        processes, _, _ = play(hospitals, method, 5, engine)
    finally:
        engine.close()
    assert same(expected.weights, debug.weights)
    assert same(expected.weights, processes.weights)


def test_debug_engine_says_which_twin_failed_in_which_round_and_stage(
    hospitals: SimulatedHospitals,
) -> None:
    broken = replace(
        hospitals, arrivals={**hospitals.arrivals, "east": (Arrival(0, np.array([10_000])),)}
    )
    with pytest.raises(IndexError) as caught:
        play(broken, FedAvg(), 1, SequentialEngine(broken, explain=True))
    assert caught.value.__notes__ == ["raised in twin east, round 0, stage observe"]


def test_fedka_without_distillation_and_weights_is_fedavg_bit_for_bit(
    hospitals: SimulatedHospitals,
) -> None:
    plain = FedKA(
        1.0, 0.0, 0.0, head_loss="ce", weighting="none", mean="by_images", reconstruction=FEW_STEPS
    )
    assert same(
        play(hospitals, plain, 5)[0].weights, play(hospitals, FedAvg(memory=True), 5)[0].weights
    )


def test_a_twin_that_sends_nan_is_rejected_with_the_reason_and_the_round_goes_on(
    hospitals: SimulatedHospitals,
) -> None:
    def damage(update: TwinUpdate) -> TwinUpdate:
        return replace(
            update,
            weights={
                name: value * float("nan") if value.is_floating_point() else value
                for name, value in update.weights.items()
            },
        )

    server, _, records = play(hospitals, FedAvg(), 2, poison=damage)
    assert [each.twin_id for each in records[0].rejected] == ["east"]
    assert "not finite" in records[0].rejected[0].reason
    assert [each.twin_id for each in records[0].accepted] == ["north", "south"]
    assert all(bool(torch.isfinite(value).all()) for value in server.weights.values())


def test_a_round_without_any_good_update_keeps_the_model(hospitals: SimulatedHospitals) -> None:
    grown, _, _ = play(hospitals, FedAvg(), 1, config=RoundConfig(twins_per_round=3))
    engine = Poisoned(SequentialEngine(hospitals), lambda each: each)
    engine.train = lambda method, broadcasts: [  # type: ignore[method-assign]  # patched
        replace(each, round=99) for each in engine.engine.train(method, broadcasts)
    ]
    server, record = run_round(
        new_server(NETWORK, 3, settle_rounds=0),
        cast(Any, engine),
        FedAvg(),
        ProxyServer(ProxyConfig()),
        RoundConfig(),
    )
    assert len(record.rejected) == 3 and server.round == 1
    assert server.weights["head.weight"].shape == grown.weights["head.weight"].shape


def test_only_twins_with_something_to_learn_are_drawn_and_none_twice() -> None:
    observations = [
        Observation(f"t{index}", 0, 0, False, num_trainable=index % 2) for index in range(20)
    ]
    chosen = choose_twins(
        observations, new_server(NETWORK, 1, settle_rounds=0), RoundConfig(twins_per_round=6)
    )
    assert len(set(chosen)) == 6 and all(int(name[1:]) % 2 for name in chosen)
    assert chosen == choose_twins(
        observations, new_server(NETWORK, 1, settle_rounds=0), RoundConfig(twins_per_round=6)
    )


def test_every_twin_looks_unless_some_are_drawn_in_the_order_of_the_twins() -> None:
    present, server = [f"t{index}" for index in range(20)], new_server(NETWORK, 1, settle_rounds=0)
    for observers in (None, 20, 30):
        assert (
            choose_observers(present, server, RoundConfig(observers_per_round=observers)) == present
        )
    drawn = [
        choose_observers(present, replace(server, round=number), RoundConfig(observers_per_round=6))
        for number in range(40)
    ]
    assert all(
        len(set(each)) == 6 and list(each) == sorted(each, key=present.index) for each in drawn
    )
    assert {name for each in drawn for name in each} == set(present)
    assert (
        drawn[3]
        == choose_observers(present, replace(server, round=3), RoundConfig(observers_per_round=6))
        != drawn[4]
    )


def test_who_trains_is_drawn_among_those_who_looked(hospitals: SimulatedHospitals) -> None:
    config = RoundConfig(twins_per_round=1, observers_per_round=2)
    engine = SequentialEngine(hospitals)
    _, _, records = play(hospitals, FedAvg(), 4, engine, config=config)
    assert all(len(record.observations) == 2 for record in records)
    assert all(
        set(record.chosen) <= {each.twin_id for each in record.observations} for record in records
    )
    assert records[0].bytes_down < play(hospitals, FedAvg(), 1)[2][0].bytes_down


def test_a_twin_that_was_not_drawn_catches_up_when_it_is(hospitals: SimulatedHospitals) -> None:
    config = RoundConfig(twins_per_round=1, observers_per_round=1)
    engine = SequentialEngine(hospitals)
    _, _, records = play(hospitals, FedAvg(), 8, engine, config=config)
    first: dict[Any, Any] = {}
    for record in records:
        first.setdefault(record.observations[0].twin_id, record.round)
    arrived = {
        name: sum(len(each.positions) for each in hospitals.arrivals[name] if each.round <= 7)
        for name in first
    }
    for name, state in engine.states.items():
        until = state.observed_until
        seen = sum(
            each.num_new_images
            for record in records
            for each in record.observations
            if each.twin_id == name
        )
        assert seen == sum(
            len(each.positions) for each in hospitals.arrivals[name] if each.round <= until
        )
        assert state.events[0] == {"round": first[name], "what": "joined the federation"}
    assert max(first.values()) > 0 and any(seen == arrived[name] for name in first)


def test_more_twins_training_than_looking_is_refused() -> None:
    with pytest.raises(
        ValueError, match="observers_per_round is 3; allowed: at least twins_per_round, which is 5"
    ):
        RoundConfig(observers_per_round=3)


def test_a_hospital_that_joins_later_is_not_asked_before(hospitals: SimulatedHospitals) -> None:
    late = replace(hospitals, joins={**hospitals.joins, "south": 2})
    _, _, records = play(late, FedAvg(), 3)
    assert [len(record.observations) for record in records] == [2, 2, 3]


def test_a_watched_rule_is_reported_and_changes_nothing(hospitals: SimulatedHospitals) -> None:
    deaf = DetectionConfig(rule="entropy_jump", jump_fraction=0.99)
    twin = replace(hospitals.setting.twin, watched=(deaf, hospitals.setting.twin.detection))
    watching = replace(hospitals, setting=replace(hospitals.setting, twin=twin))
    expected, _, _ = play(hospitals, FedAvg(), 5)
    server, _, records = play(watching, FedAvg(), 5)
    assert same(server.weights, expected.weights)
    seen = [each for record in records for each in record.observations]
    assert all(each.watched[1] == each.signal for each in seen)
    assert any(each.signal and not each.watched[0] for each in seen)


def test_fedka_without_reconstruction_uploads_weights_alone_and_is_judged_on_held_back_images(
    hospitals: SimulatedHospitals,
) -> None:
    server, proxy, records = play(hospitals, FedKA(head_loss="ce", reconstruction=None), 2)
    assert all(not update.upload for record in records for update in record.accepted)
    assert not server.kept
    assert proxy.best.score.test.startswith("held-back images")
