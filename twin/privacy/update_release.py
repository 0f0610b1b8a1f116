"""Release of an update: upload policy, noise and compression, the one place every update passes.

1. The hospital's upload policy (``twin.privacy.upload_policy``): what it forbids does not leave.
2. Differential privacy (``twin.privacy.differential_privacy``): the change is clipped and gets
   noise. The steps that follow see the noisy weights alone.
3. Compression (``twin.compression``). From here on ``weights`` are what the server will have, and
   ``packed`` is what travels. The residual is kept in the twin's state, hidden from the method.
"""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b

import pydantic.dataclasses
import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from incremental.head import Weights
from incremental.weight_tensors import labelled, parameters_of, with_label
from twin.compression import CompressionConfig, pack, unpack
from twin.messages import Broadcast, TwinUpdate
from twin.privacy.differential_privacy import UpdateNoise, clip_and_noise
from twin.privacy.upload_policy import UploadPolicy, check_upload, without_metrics
from twin.state import TwinState

_OWN = "outgoing/"  # prefix of the kept tensors that are not the method's
_RESIDUAL = f"{_OWN}residual"


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class UpdateReleaseConfig:
    """Compression of every update of a federation, and noise on it.

    Args:
        compression: How updates are compressed.
        noise: Differential privacy of a twin's whole update; none: no noise.
    """

    compression: CompressionConfig = Field(default_factory=CompressionConfig)
    noise: UpdateNoise | None = None

    @property
    def changes_weights(self) -> bool:
        """Whether the server gets other weights than the twin trained."""
        return self.compression.kind != "none" or self.noise is not None


def release_update(
    update: TwinUpdate,
    broadcast: Broadcast,
    config: UpdateReleaseConfig,
    state: TwinState,
    policy: UploadPolicy,
    method: object,
) -> tuple[TwinUpdate, TwinState]:
    """Return the update as it leaves the hospital, and the twin's new state.

    Args:
        update: As trained.
        broadcast: What the twin was sent; the change is measured from its weights, and its seed
            makes random draws repeatable.
        config: Compression and noise.
        state: State of the twin.
        policy: Upload policy of the hospital.
        method: The method's local half, which declares the kinds of its uploads.

    Raises:
        UploadForbidden: If the policy forbids what would leave.
        PrivacyError: If a part of the model cannot get the noise that is configured.
    """
    check_upload(method, policy, update.upload)
    if "metrics" in policy.forbid:
        update = without_metrics(update)
        state = state.with_event(update.round, "kept the means of its losses to itself")
    if config.noise is not None:
        generator = generator_for(broadcast.seed, "noise of the update")
        noisy = clip_and_noise(update.weights, broadcast.weights, config.noise, generator)
        update = replace(update, weights=noisy)
    return _compress(update, broadcast, config.compression, state)


def unpack_update(update: TwinUpdate, reference: Weights) -> TwinUpdate:
    """Return an update with the weights that its ``packed`` stands for.

    Args:
        update: As it arrived; without ``packed`` it is returned as it is.
        reference: The weights that were broadcast to this twin.

    Raises:
        CompressionError: If ``packed`` is not an update of these weights.
    """
    if update.packed is None:
        return update
    return replace(update, weights=unpack(update.packed, reference))


def _compress(
    update: TwinUpdate, broadcast: Broadcast, config: CompressionConfig, state: TwinState
) -> tuple[TwinUpdate, TwinState]:
    # An update that is not finite leaves as it is: the server's screening rejects it with a reason.
    if config.kind == "none" or not _is_finite(update.weights):
        return update, state
    packed, residual = pack(
        update.weights,
        broadcast.weights,
        config,
        with_label(_RESIDUAL, state.kept),
        generator_for(broadcast.seed, "round the update"),
    )
    kept = {**kept_by_method(state.kept), **labelled(_RESIDUAL, residual)}
    update = replace(update, weights=unpack(packed, broadcast.weights), packed=packed)
    return update, replace(state, kept=kept)


def kept_by_method(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors kept on a twin that are the method's."""
    return {name: value for name, value in kept.items() if not name.startswith(_OWN)}


def kept_by_twin(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors kept on a twin that are not the method's."""
    return {name: value for name, value in kept.items() if name.startswith(_OWN)}


def generator_for(seed: int, purpose: str) -> torch.Generator:
    """Return a generator for one purpose, independent of the one used in training."""
    digest = blake2b(f"{seed}\0{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def _is_finite(weights: Weights) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in parameters_of(weights).values())
