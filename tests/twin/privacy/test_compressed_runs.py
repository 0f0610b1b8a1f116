from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from federation.engines.choice import EngineConfig, make_engine
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.engines.twin_states import StateFolder
from federation.experiment.config import load_experiment
from federation.experiment.config_file import ConfigError
from federation.experiment.loop import RunCallbacks, run_experiment, with_seed
from federation.experiment.run_folder import RunFolder
from federation.methods.fedavg import FedAvg
from federation.methods.scaffold import SCAFFOLD
from federation.server import grow_for_new_classes, new_server
from incremental.network import build_network
from physical.batch import Batch
from physical.hospital import Arrival, Hospital
from tests.twin.privacy.released_updates import RESIDUAL, compressed, play, residuals, same
from twin.compression import CompressionConfig, CompressionError, PackedWeights, unpack
from twin.config import TwinSetting
from twin.messages import Broadcast, num_bytes
from twin.privacy.update_release import UpdateReleaseConfig, unpack_update
from twin.twin import DigitalTwin

CONFIGS = Path(__file__).parents[3] / "hospital_configs"


KINDS = ("float16", "int8", "top_k")


def trained(
    tiny_batch: Batch, setting: TwinSetting, method: Any = None, policy: Any = None
) -> tuple[Any, ...]:
    """Return a twin that has trained once, the broadcast it answered, and its update."""
    twin = DigitalTwin(
        Hospital("north", tiny_batch, [Arrival(0, np.arange(60))]), setting, policy=policy
    )
    server = new_server(setting.network, 1, settle_rounds=0)
    observation = twin.observe(server.model, build_network(server.network, server.weights))
    server, _ = grow_for_new_classes(server, [observation])
    broadcast = Broadcast(server.weights, server.class_names, 0, 0, 5)
    return twin, broadcast, twin.train(broadcast, method or FedAvg())


def test_the_default_is_no_compression_bit_for_bit(tiny_hospitals: SimulatedHospitals) -> None:
    plain, records, engine = play(tiny_hospitals, FedAvg())
    asked, _, _ = play(compressed(tiny_hospitals, "none"), FedAvg())
    assert same(plain.weights, asked.weights)
    assert all(each.packed is None for record in records for each in record.accepted)
    assert not any(residuals(state) for state in engine.states.values())


@pytest.mark.parametrize("kind", KINDS)
def test_packed_tensors_unpack_to_the_weights_of_the_update(
    kind: Any, tiny_batch: Batch, tiny_setting: TwinSetting
) -> None:
    setting = replace(tiny_setting, outgoing=UpdateReleaseConfig(CompressionConfig(kind)))
    _, _, true = trained(tiny_batch, tiny_setting)
    twin, broadcast, update = trained(tiny_batch, setting)
    assert same(unpack(update.packed, broadcast.weights), update.weights)
    assert not same(update.weights, true.weights)
    for name, value in residuals(twin.state).items():
        weight = name.removeprefix(RESIDUAL)
        assert torch.allclose(update.weights[weight] + value, true.weights[weight], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_receiver_of_the_packed_tensors_alone_gets_the_same_bits(
    kind: Any, tiny_batch: Batch, tiny_setting: TwinSetting
) -> None:
    setting = replace(tiny_setting, outgoing=UpdateReleaseConfig(CompressionConfig(kind)))
    _, broadcast, update = trained(tiny_batch, setting)
    assert same(
        unpack_update(replace(update, weights={}), broadcast.weights).weights, update.weights
    )
    plain = replace(update, packed=None)
    assert unpack_update(plain, broadcast.weights) is plain
    with pytest.raises(CompressionError):
        unpack_update(replace(update, packed=PackedWeights("int8", {})), broadcast.weights)


@pytest.mark.parametrize(("kind", "most"), [("float16", 0.52), ("int8", 0.35), ("top_k", 0.18)])
def test_the_bytes_of_a_round_are_those_of_the_packed_updates(
    kind: Any, most: float, tiny_hospitals: SimulatedHospitals
) -> None:
    _, plain, _ = play(tiny_hospitals, FedAvg(), 2)
    _, records, _ = play(compressed(tiny_hospitals, kind), FedAvg(), 2)
    for before, after in zip(plain, records, strict=True):
        assert after.bytes_up == sum(
            num_bytes(each.packed.tensors, each.upload) for each in after.accepted
        )
        assert after.bytes_up < most * before.bytes_up
        assert after.bytes_down == before.bytes_down


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_residual_grows_with_the_head_in_compressed_rounds(
    kind: Any, feedback: bool, tiny_hospitals: SimulatedHospitals
) -> None:
    server, records, engine = play(compressed(tiny_hospitals, kind, feedback), FedAvg(), 6)
    assert len(server.task_begins) >= 2 and not any(record.rejected for record in records)
    for twin_id, state in engine.states.items():
        if any(twin_id in record.chosen for record in records[4:]):
            assert bool(residuals(state)) == feedback
            assert (
                not feedback
                or state.kept[f"{RESIDUAL}head.bias"].shape == server.weights["head.bias"].shape
            )


@pytest.mark.parametrize(
    "kind",
    [
        "top_k",
        pytest.param("float16", marks=pytest.mark.slow),
        pytest.param("int8", marks=pytest.mark.slow),
    ],
)
def test_worker_processes_equal_one_process_bit_for_bit(
    kind: Any, tiny_hospitals: SimulatedHospitals, tmp_path: Path
) -> None:
    hospitals = compressed(
        tiny_hospitals, kind, feedback=kind != "int8"
    )  # int8 with drawn rounding
    expected, records, _ = play(hospitals, SCAFFOLD())
    engine = make_engine(
        EngineConfig(name="processes", threads=1, workers=1), hospitals, StateFolder(tmp_path)
    )
    try:
        found, others, _ = play(hospitals, SCAFFOLD(), engine=engine)
    finally:
        engine.close()
    assert same(found.weights, expected.weights)
    assert [each.bytes_up for each in others] == [each.bytes_up for each in records]


class Stop(Exception):
    pass


def test_a_resumed_run_equals_an_uninterrupted_one_with_top_k_and_error_feedback(
    tmp_path: Path,
) -> None:
    changes = [
        "training.epochs=1",
        "tracking.enabled=false",
        "method.name=scaffold",
        "outgoing.compression={kind: top_k, share: 0.05}",
    ]
    config = with_seed(
        load_experiment(CONFIGS / "phantom_tiny", [*changes, "method={name: scaffold}"]), 5
    )

    def stop(record: Any) -> None:
        if record["kind"] == "round" and record["round"] == 3:
            raise Stop

    run_experiment(config, tmp_path / "whole")
    with pytest.raises(Stop):
        run_experiment(config, tmp_path / "stopped", callbacks=RunCallbacks(record=stop))
    run_experiment(config, tmp_path / "stopped", resume=True)
    whole, stopped = (
        [
            {**record, "seconds": 0, "code_version": ""}
            for record in RunFolder(tmp_path / name).read_records()
        ]
        for name in ("whole", "stopped")
    )
    assert stopped == whole
    states = [StateFolder(RunFolder(tmp_path / name).twins) for name in ("whole", "stopped")]
    assert any(residuals(state) for state in states[0].values())
    assert all(
        same(cast(Any, states[0][twin_id].kept), cast(Any, states[1][twin_id].kept))
        for twin_id in states[0]
    )
    up = [record["megabytes_up"] for record in whole if record["kind"] == "round"]
    down = [record["megabytes_down"] for record in whole if record["kind"] == "round"]
    assert all(few < 0.2 * many for few, many in zip(up, down, strict=True))


def test_the_digest_changes_with_compression_and_noise_and_not_at_the_default() -> None:
    def digest(*changes: Any) -> str:
        return load_experiment(CONFIGS / "phantom_tiny", changes).digest()

    assert digest() == digest("outgoing.compression.kind=none") == digest("outgoing={}")
    kinds = {digest(f"outgoing.compression.kind={kind}") for kind in KINDS}
    assert (
        len({digest(), digest("outgoing.compression={kind: int8, error_feedback: false}"), *kinds})
        == 5
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("outgoing.compression.kind=gzip", "outgoing.compression.kind"),
        ("outgoing.compression.shar=0.1", "'shar' is not a known key|shar is not a known key"),
        ("outgoing.compression={kind: top_k, share: 0}", "share is 0"),
        ("outgoing.packing=int8", "packing is not a known key"),
    ],
)
def test_a_typo_under_outgoing_is_one_clear_error(change: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_experiment(CONFIGS / "phantom_tiny", [change])


def test_a_method_whose_twins_sum_their_own_weights_is_refused_with_compression() -> None:
    load_experiment(CONFIGS / "phantom_tiny", ["method={name: fedcurv}"])
    with pytest.raises(ConfigError, match="method is fedcurv and outgoing changes the weights"):
        load_experiment(
            CONFIGS / "phantom_tiny",
            ["method={name: fedcurv}", "outgoing.compression.kind=float16"],
        )


def test_a_hospital_that_forbids_metrics_is_in_no_mean_of_losses(
    tiny_hospitals: SimulatedHospitals,
) -> None:
    from federation.experiment.records import round_record
    from federation.experiment.setup import prepare_experiment

    setup = prepare_experiment(load_experiment(CONFIGS / "phantom_tiny"))
    _, records, _ = play(tiny_hospitals, FedAvg(), 1)
    first, *others = records[0].accepted
    record = replace(records[0], observations=(), accepted=(replace(first, metrics={}), *others))
    losses = round_record(setup, record, (), None, 1.0)["losses"]
    assert losses["total"] == pytest.approx(np.mean([each.metrics["total"] for each in others]))
    assert (
        round_record(setup, replace(record, accepted=(replace(first, metrics={}),)), (), None, 1.0)[
            "losses"
        ]
        == {}
    )
