from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from federation.engines.choice import EngineConfig, make_engine
from federation.engines.sequential import SequentialEngine
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.engines.twin_states import StateFolder
from federation.experiment.config import load_experiment
from federation.experiment.config_file import ConfigError
from federation.experiment.loop import RunCallbacks, run_experiment, with_seed
from federation.experiment.run_folder import RunFolder
from federation.methods.fedavg import FedAvg
from federation.methods.flwf2t import FLwF2T
from federation.methods.scaffold import SCAFFOLD
from federation.round import RoundConfig, run_round
from federation.server import grow_for_new_classes, new_server
from incremental.network import IncrementalNetwork, build_network
from incremental.proxy import ProxyConfig, ProxyServer
from physical.batch import Batch
from physical.hospital import Arrival, Hospital
from twin.compression import CompressionConfig, CompressionError, PackedWeights, pack, unpack
from twin.config import TwinSetting
from twin.memory import ExemplarMemory
from twin.messages import Broadcast, TwinUpdate, num_bytes
from twin.objective import LocalContext
from twin.privacy.differential_privacy import UpdateNoise, clip_and_noise
from twin.privacy.update_release import (
    UpdateReleaseConfig,
    generator_for,
    kept_by_method,
    kept_by_twin,
    release_update,
    unpack_update,
)
from twin.privacy.upload_policy import UploadForbidden, UploadPolicy
from twin.state import TwinState
from twin.twin import DigitalTwin

CONFIGS = Path(__file__).parents[3] / "hospital_configs"
KINDS = ("float16", "int8", "top_k")
RESIDUAL = "outgoing/residual/"


def compressed(
    hospitals: SimulatedHospitals, kind: Any, feedback: bool = True, share: float = 0.1
) -> SimulatedHospitals:
    config = UpdateReleaseConfig(CompressionConfig(kind, share, feedback))
    return replace(hospitals, setting=replace(hospitals.setting, outgoing=config))


def play(
    hospitals: SimulatedHospitals, method: Any, rounds: int = 4, engine: Any = None
) -> tuple[Any, ...]:
    engine = engine or SequentialEngine(hospitals)
    server, proxy, records = (
        new_server(hospitals.setting.network, 3, settle_rounds=0),
        ProxyServer(ProxyConfig()),
        [],
    )
    for _ in range(rounds):
        server, record = run_round(server, engine, method, proxy, RoundConfig())
        records.append(record)
    return server, records, engine


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def residuals(state: TwinState) -> dict[str, Any]:
    return {name: value for name, value in state.kept.items() if name.startswith(RESIDUAL)}


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


def an_update(weights: dict[str, Tensor], **changes: Any) -> TwinUpdate:
    values = {
        "twin_id": "north",
        "round": 0,
        "weights": weights,
        "num_images": 3,
        "class_names": ("a",),
        "metrics": {"total": 1.0},
    }
    return TwinUpdate(**{**values, **changes})


REFERENCE = {"head.weight": torch.zeros(1, 4), "head.bias": torch.zeros(1)}
LOCAL = {"head.weight": torch.tensor([[0.5, -0.25, 0.011, 2.0]]), "head.bias": torch.tensor([0.3])}
BROADCAST = Broadcast(REFERENCE, ("a",), 0, 0, seed=9)
EMPTY = TwinState(ExemplarMemory(0))


def leave(
    config: UpdateReleaseConfig,
    weights: dict[str, Tensor] = LOCAL,
    state: TwinState = EMPTY,
    policy: UploadPolicy | None = None,
    **changes: Any,
) -> tuple[Any, ...]:
    return release_update(
        an_update(weights, **changes), BROADCAST, config, state, policy or UploadPolicy(), FedAvg()
    )


def test_without_any_wish_an_update_leaves_untouched() -> None:
    update, state = leave(UpdateReleaseConfig())
    assert update.weights is LOCAL and update.packed is None and state is EMPTY
    assert update.num_bytes == num_bytes(LOCAL) == 20


def test_the_default_is_no_compression_bit_for_bit(tiny_hospitals: SimulatedHospitals) -> None:
    plain, records, engine = play(tiny_hospitals, FedAvg())
    asked, _, _ = play(compressed(tiny_hospitals, "none"), FedAvg())
    assert same(plain.weights, asked.weights)
    assert all(each.packed is None for record in records for each in record.accepted)
    assert not any(residuals(state) for state in engine.states.values())


@pytest.mark.parametrize("kind", KINDS)
def test_what_travels_unpacks_to_the_weights_of_the_update(
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
def test_a_receiver_to_whom_only_the_packed_form_travelled_gets_the_same_bits(
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
def test_the_bytes_of_a_round_are_those_that_cross_the_wire(
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
def test_the_head_grows_through_compressed_rounds_and_what_is_remembered_grows_with_it(
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


class Curious(SCAFFOLD):
    """SCAFFOLD that notes what it is shown of its kept tensors."""

    seen: ClassVar[list[str]] = []

    def finish_local(  # type: ignore[override]  # takes less than its base
        self, network: IncrementalNetwork, context: LocalContext
    ) -> tuple[dict[str, Tensor], ...]:
        Curious.seen += context.kept
        return cast(Any, super().finish_local(network, context))


@pytest.mark.parametrize(
    "method", [Curious(), FLwF2T(), FedAvg()], ids=lambda method: type(method).__name__
)
def test_what_is_remembered_survives_whatever_a_method_keeps_and_is_not_shown_to_it(
    method: Any, tiny_hospitals: SimulatedHospitals
) -> None:
    _, records, engine = play(compressed(tiny_hospitals, "int8"), method)
    assert all(len(record.accepted) >= 2 for record in records)
    for state in engine.states.values():
        assert len(residuals(state)) == len(kept_by_twin(state.kept)) > 0
        assert bool(kept_by_method(state.kept)) == (type(method) is not FedAvg)
    if isinstance(method, Curious):
        assert Curious.seen and not any(name.startswith("outgoing/") for name in Curious.seen)


@pytest.mark.parametrize("feedback", [True, False])
def test_each_round_adds_what_the_last_one_left_out(
    feedback: bool, tiny_batch: Batch, tiny_setting: TwinSetting
) -> None:
    config = CompressionConfig("top_k", 0.05, feedback)
    first, state = leave(UpdateReleaseConfig(config))
    second, _ = leave(UpdateReleaseConfig(config), state=state)
    expected, left = pack(LOCAL, REFERENCE, config, {}, torch.Generator())
    again, _ = pack(LOCAL, REFERENCE, config, left, torch.Generator())
    assert same(first.packed.tensors, cast(Any, expected.tensors)) and same(
        second.packed.tensors, cast(Any, again.tensors)
    )
    assert first.packed.tensors["indices"].tolist() == [
        4
    ]  # 2.0 after the bias, by the order of the names
    assert second.packed.tensors["indices"].tolist() == [4]


def test_turning_error_feedback_off_forgets_residuals_and_keeps_the_methods_tensors() -> None:
    _, state = leave(
        UpdateReleaseConfig(CompressionConfig("int8")),
        state=replace(EMPTY, kept={"control/head.bias": torch.ones(1)}),
    )
    assert residuals(state)
    _, after = leave(
        UpdateReleaseConfig(CompressionConfig("int8", error_feedback=False)), state=state
    )
    assert after.kept.keys() == {"control/head.bias"}


def test_a_model_that_is_not_finite_is_not_packed_so_that_the_screen_can_say_why(
    tiny_hospitals: SimulatedHospitals,
) -> None:
    broken = {**LOCAL, "head.bias": torch.tensor([torch.nan])}
    update, state = leave(UpdateReleaseConfig(CompressionConfig("int8")), weights=broken)
    assert update.packed is None and update.weights is broken and state is EMPTY
    wild = replace(
        tiny_hospitals,
        setting=replace(
            tiny_hospitals.setting,
            training=replace(tiny_hospitals.setting.training, learning_rate=1e30),
        ),
    )
    wild = replace(
        wild,
        setting=replace(wild.setting, training=replace(wild.setting.training, gradient_clip=None)),
    )
    server, records, _ = play(compressed(wild, "int8"), FedAvg(), 1)
    assert len(records[0].rejected) == len(records[0].chosen) > 0
    assert all(bool(torch.isfinite(value).all()) for value in server.weights.values())


def test_noise_comes_before_compression_and_has_a_stream_of_its_own() -> None:
    noise = UpdateNoise(clip_norm=1.0, noise_multiplier=0.5)
    noisy, _ = leave(UpdateReleaseConfig(noise=noise))
    assert same(
        noisy.weights,
        clip_and_noise(
            LOCAL, REFERENCE, noise, generator_for(BROADCAST.seed, "noise of the update")
        ),
    )
    both, _ = leave(UpdateReleaseConfig(CompressionConfig("float16"), noise))
    expected, _ = pack(
        noisy.weights, REFERENCE, CompressionConfig("float16"), {}, torch.Generator()
    )
    assert same(both.packed.tensors, cast(Any, expected.tensors))
    streams = [
        torch.rand(3, generator=each).tolist()
        for each in (generator_for(9, "one"), generator_for(9, "two"), generator_for(8, "one"))
    ]
    assert (
        len(
            {
                tuple(each)
                for each in (
                    *streams,
                    torch.rand(3, generator=torch.Generator().manual_seed(9)).tolist(),
                )
            }
        )
        == 4
    )


def test_the_policy_is_asked_before_anything_else_happens() -> None:
    config, policy = UpdateReleaseConfig(CompressionConfig("int8")), UploadPolicy(("class_counts",))
    with pytest.raises(UploadForbidden):
        leave(config, policy=policy, upload={"secret": torch.zeros(1)})
    update, _ = leave(config, policy=policy)
    assert update.packed is not None


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


def test_the_digest_sees_what_changes_a_result_and_nothing_at_the_default() -> None:
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
def test_a_typo_in_what_leaves_is_one_clear_error(change: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_experiment(CONFIGS / "phantom_tiny", [change])


def test_a_method_whose_twins_sum_their_own_weights_is_refused_with_compression() -> None:
    load_experiment(CONFIGS / "phantom_tiny", ["method={name: fedcurv}"])
    with pytest.raises(ConfigError, match="method is fedcurv and outgoing changes the weights"):
        load_experiment(
            CONFIGS / "phantom_tiny",
            ["method={name: fedcurv}", "outgoing.compression.kind=float16"],
        )


def test_a_silent_hospital_counts_in_no_mean_of_losses(tiny_hospitals: SimulatedHospitals) -> None:
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
