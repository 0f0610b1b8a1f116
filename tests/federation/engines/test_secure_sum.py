import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from federation.aggregation.screening import ScreeningConfig
from federation.aggregation.secure_sum import SecureAggregationConfig
from federation.engines.engine import TwinEngine
from federation.engines.secure_sum import SecureEngine, secured
from federation.engines.sequential import SequentialEngine
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.experiment.config import load_experiment
from federation.experiment.config_file import ConfigError
from federation.experiment.loop import run_experiment
from federation.methods.fedavg import FedAvg
from federation.methods.fedka import FedKA
from federation.methods.fedprox import FedProx
from federation.round import RoundConfig, run_round
from federation.server import new_server
from incremental.detection import DetectionConfig
from incremental.network import NetworkConfig
from incremental.proxy import ProxyConfig, ProxyServer
from physical.batch import Batch
from physical.hospital import Arrival
from twin.config import TwinConfig, TwinSetting
from twin.local_training import TrainingConfig
from twin.secure_sum.fixed_point import RESOLUTION

pytest.importorskip("cryptography", reason="the keys are those of the extra package cryptography")

CONFIGS = Path(__file__).parents[3] / "hospital_configs"
NETWORK = NetworkConfig(backbone="lenet", width=4, image_size=16, channels=1)
SECURE = RoundConfig(secure_aggregation=SecureAggregationConfig())


@pytest.fixture(scope="module")
def hospitals() -> SimulatedHospitals:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 120)
    centres = rng.integers(40, 216, (4, 16, 16, 1))
    images = np.clip(centres[labels] + rng.normal(0, 20, (480, 16, 16, 1)), 0, 255).astype(np.uint8)
    archive = Batch(images, labels, ("liver", "heart", "spleen", "bladder"))
    order = rng.permutation(480)
    first, second = order[labels[order] < 2], order[labels[order] >= 2]
    arrivals = {
        name: (Arrival(0, np.sort(first[index::4])), Arrival(2, np.sort(second[index::4])))
        for index, name in enumerate(("north", "east", "south", "west"))
    }
    twin = TwinConfig(
        memory_capacity=12, held_back_fraction=0.25, detection=DetectionConfig(rule="calibrated")
    )
    training = TrainingConfig(epochs=1, batch_size=16, learning_rate=0.05)
    return SimulatedHospitals(
        archive,
        arrivals,
        dict.fromkeys(arrivals, 0),
        TwinSetting(twin, NETWORK, training, rounds_per_task=2),
    )


def play(
    hospitals: SimulatedHospitals, method: FedAvg | FedProx, rounds: int, config: RoundConfig
) -> tuple[Any, ...]:
    engine = secured(SequentialEngine(hospitals), config, method.sums)
    server, proxy, records = (
        new_server(NETWORK, seed=3, settle_rounds=0),
        ProxyServer(ProxyConfig()),
        [],
    )
    for _ in range(rounds):
        server, record = run_round(server, engine, method, proxy, config)
        records.append(record)
    return server, records, engine


@pytest.mark.parametrize(
    "method",
    [FedAvg(), FedAvg(mean="equal", memory=True), FedProx(mu=0.1)],
    ids=["fedavg", "equal", "fedprox"],
)
def test_a_run_in_secret_is_the_plain_run_within_the_resolution(
    hospitals: SimulatedHospitals, method: FedAvg | FedProx
) -> None:
    for rounds, rounding in (
        (1, 2**-24),
        (4, 1e-5),
    ):  # what a last bit of float32 grows to in three rounds of training
        plain, expected, _ = play(hospitals, method, rounds, RoundConfig())
        secret, records, _ = play(hospitals, method, rounds, SECURE)
        assert secret.class_names == plain.class_names
        for name, value in plain.weights.items():
            assert (secret.weights[name] - value).abs().max() <= 2 * RESOLUTION + rounding
        for record, open_record in zip(records, expected, strict=True):
            (update,) = record.accepted
            assert update.summed == tuple(each.twin_id for each in open_record.accepted)
            assert update.num_images == sum(each.num_images for each in open_record.accepted)
            assert (
                record.bytes_up >= 1.99 * open_record.bytes_up
            )  # 64 bits for each weight of 32; counters had 64 before
            assert update.metrics["total"] == pytest.approx(
                np.mean([each.metrics["total"] for each in open_record.accepted]), abs=1e-4
            )


def test_a_run_in_secret_is_the_same_bits_twice(hospitals: SimulatedHospitals) -> None:
    first, second = (play(hospitals, FedAvg(), 2, SECURE)[0].weights for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_it_is_an_engine_with_the_states_of_the_one_inside(hospitals: SimulatedHospitals) -> None:
    inside = SequentialEngine(hospitals)
    engine = secured(inside, SECURE, "by_images")
    assert isinstance(engine, SecureEngine) and isinstance(engine, TwinEngine)
    assert engine.states is inside.states and engine.present(0) == inside.present(0)
    engine.close()


def test_without_the_setting_the_engine_is_as_it_is(hospitals: SimulatedHospitals) -> None:
    inside = SequentialEngine(hospitals)
    assert secured(inside, RoundConfig(), None) is inside


def test_nothing_is_let_through_in_the_open_that_was_to_be_secret(
    hospitals: SimulatedHospitals,
) -> None:
    with pytest.raises(ValueError, match="reads single updates"):
        secured(SequentialEngine(hospitals), SECURE, FedKA().sums)


def test_a_hospital_whose_training_ran_away_is_left_out_and_the_others_are_summed(
    hospitals: SimulatedHospitals,
) -> None:
    wild = replace(
        hospitals,
        setting=replace(
            hospitals.setting, training=replace(hospitals.setting.training, learning_rate=1.0)
        ),
    )
    calm = SequentialEngine(hospitals)

    class Mixed(SequentialEngine):
        def train(self, method: Any, broadcasts: Any) -> Any:
            wilder = {name: each for name, each in broadcasts.items() if name == "east"}
            calmer = {name: each for name, each in broadcasts.items() if name != "east"}
            calm.states = self.states
            return [*super().train(method, wilder), *calm.train(method, calmer)]

    config = replace(SECURE, screening=ScreeningConfig(max_relative_change=0.1))
    engine = secured(cast(Any, Mixed(wild)), config, "by_images")
    _, record = run_round(
        new_server(NETWORK, 3, settle_rounds=0),
        engine,
        FedAvg(),
        ProxyServer(ProxyConfig()),
        config,
    )
    (update,) = record.accepted
    assert update.summed == ("north", "south", "west")
    assert [each.twin_id for each in engine.last.dropped] == ["east"]  # type: ignore[attr-defined]  # looked up where it is used
    assert "times the global norm" in engine.last.dropped[0].reason  # type: ignore[attr-defined]  # looked up where it is used


def test_a_round_with_too_few_hospitals_leaves_the_model_as_it_was(
    hospitals: SimulatedHospitals,
) -> None:
    few = replace(hospitals, joins={"north": 0, "east": 0, "south": 9, "west": 9})
    server, (record,), engine = play(few, FedAvg(), 1, SECURE)
    grown, _, _ = play(few, FedAvg(), 1, RoundConfig())
    assert record.accepted == () and record.bytes_up == 0
    assert engine.last.reason == "2 hospitals are left; a sum needs 3"
    assert server.round == 1 and server.weights.keys() == grown.weights.keys()


def test_a_sum_is_turned_away_where_none_was_to_be_made_and_where_it_has_strangers(
    hospitals: SimulatedHospitals,
) -> None:
    engine = secured(SequentialEngine(hospitals), SECURE, "by_images")
    _, record = run_round(
        new_server(NETWORK, 3, settle_rounds=0),
        engine,
        FedAvg(),
        ProxyServer(ProxyConfig()),
        RoundConfig(),
    )
    assert [each.reason for each in record.rejected] == ["claims to be a sum"]

    class Stranger(SequentialEngine):
        def train(self, method: Any, broadcasts: Any) -> Any:
            return [
                replace(each, summed=(each.twin_id, "nobody"))
                for each in super().train(method, broadcasts)
            ]

    _, record = run_round(
        new_server(NETWORK, 3, settle_rounds=0),
        cast(Any, Stranger(hospitals)),
        FedAvg(),
        ProxyServer(ProxyConfig()),
        SECURE,
    )
    assert {each.reason for each in record.rejected} == {"was not asked to train"}


def test_the_digest_of_an_experiment_without_it_is_what_it_was_and_with_it_another() -> None:
    def digest(*changes: Any) -> str:
        return load_experiment(CONFIGS / "phantom_tiny", ["method=fedavg", *changes]).digest()

    assert digest() == digest("federation.secure_aggregation=null")
    assert (
        digest()
        != digest("federation.secure_aggregation.minimum_hospitals=3")
        != digest("federation.secure_aggregation.max_restarts=1")
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["method=fedka"], "method FedKA, as it is set, reads single updates"),
        (["method=fedavg", "federation.robust.rule=median"], "a robust mean is configured"),
        (["method=fedavg", "federation.robust.clip_norm=1.0"], "a robust mean is configured"),
        (["method=fedavg", "outgoing.compression.kind=float16"], "updates are compressed"),
        (
            ["method=fedavg", "federation.twins_per_round=2"],
            "twins_per_round is 2; allowed: minimum_hospitals, 3, or more",
        ),
        (["method=fedavg", "federation.secure_aggregation.minimum_hospital=3"], "minimum_hospital"),
    ],
)
def test_a_combination_that_cannot_be_is_refused_before_the_first_round(
    changes: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment(CONFIGS / "phantom_tiny", ["federation.secure_aggregation={}", *changes])


def test_an_experiment_runs_in_secret_and_its_records_name_who_was_summed(tmp_path: Path) -> None:
    changes = [
        "training.epochs=1",
        "tracking.enabled=false",
        "method=fedavg",
        "federation.secure_aggregation={}",
    ]
    run_experiment(load_experiment(CONFIGS / "phantom_tiny", changes), tmp_path / "secret")
    lines = [
        json.loads(line)
        for line in (tmp_path / "secret" / "records.jsonl").read_text().splitlines()
    ]
    rounds = [each for each in lines if each["kind"] == "round"]
    assert rounds and all(each["accepted"] == each["chosen"] for each in rounds)
