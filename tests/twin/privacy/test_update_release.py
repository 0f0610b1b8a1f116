from dataclasses import replace
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import Tensor

from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.methods.fedavg import FedAvg
from federation.methods.flwf2t import FLwF2T
from federation.methods.scaffold import SCAFFOLD
from incremental.network import IncrementalNetwork
from physical.batch import Batch
from tests.twin.privacy.released_updates import compressed, play, residuals, same
from twin.compression import CompressionConfig, pack
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
)
from twin.privacy.upload_policy import UploadForbidden, UploadPolicy
from twin.state import TwinState


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


def test_by_default_an_update_leaves_unchanged() -> None:
    update, state = leave(UpdateReleaseConfig())
    assert update.weights is LOCAL and update.packed is None and state is EMPTY
    assert update.num_bytes == num_bytes(LOCAL) == 20


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
def test_the_residual_survives_what_a_method_keeps_and_is_hidden_from_it(
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
def test_each_round_adds_the_residual_of_the_last_one(
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


def test_a_model_that_is_not_finite_is_not_packed_so_that_screening_gives_the_reason(
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


def test_noise_comes_before_compression_and_has_its_own_generator() -> None:
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


def test_the_policy_is_checked_before_anything_else() -> None:
    config, policy = UpdateReleaseConfig(CompressionConfig("int8")), UploadPolicy(("class_counts",))
    with pytest.raises(UploadForbidden):
        leave(config, policy=policy, upload={"secret": torch.zeros(1)})
    update, _ = leave(config, policy=policy)
    assert update.packed is not None
