"""Release of an update: policy, noise and compression, the one place every update passes.

1. The hospital's policy: what it forbids does not leave (``twin.privacy.upload_policy``).
2. Noise (``twin.privacy.differential_privacy``): the change is clipped and every coordinate gets
  noise. What follows sees that model alone.
3. Compression (``twin.compression``). From here on ``weights`` are what the server will see, and
  ``packed`` is what travels.

Knows no method but by what it declares, and no server. What compression remembers is the twin's and
not the method's: it rests in the twin's state beside what the method keeps, and the method never
sees it.
"""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b

import pydantic.dataclasses
import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from incremental.head import Weights
from twin.compression import CompressionConfig, moved_names, pack, unpack
from twin.messages import Broadcast, TwinUpdate
from twin.privacy.differential_privacy import UpdateNoise, clip_and_noise
from twin.privacy.upload_policy import UploadPolicy, check_upload, without_metrics
from twin.state import TwinState

_OWN = "outgoing/"  # what begins so in a twin's kept tensors is no method's
_RESIDUAL = f"{_OWN}residual/"


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class OutgoingConfig:
    """What is done to every update of a federation before it leaves.

    Args:
        compression: How it travels.
        noise: Differential privacy of a twin's whole update; none: it leaves as it was trained.
    """

    compression: CompressionConfig = Field(default_factory=CompressionConfig)
    noise: UpdateNoise | None = None

    @property
    def changes_weights(self) -> bool:
        """The server sees other weights than the twin has."""
        return self.compression.kind != "none" or self.noise is not None


def outgoing(
    update: TwinUpdate,
    broadcast: Broadcast,
    config: OutgoingConfig,
    state: TwinState,
    policy: UploadPolicy,
    method: object,
) -> tuple[TwinUpdate, TwinState]:
    """Return the update as it leaves, and the state of the twin that has let it go.

    Args:
        update: As trained.
        broadcast: What it answers; its weights are what the server compares with, its seed names
            every draw.
        config: Of the federation.
        state: Of the twin.
        policy: Of the hospital.
        method: What trained; asked of what kind its uploads are.

    Raises:
        UploadForbidden: If the policy forbids what would leave.
        PrivacyError: If noise is asked for and something of the model would leave without.
    """
    check_upload(method, policy, update.upload)
    if "metrics" in policy.forbid:
        update, state = (
            without_metrics(update),
            _noted(state, update.round, "kept the means of its losses to itself"),
        )
    if config.noise is not None:
        generator = generator_for(broadcast.seed, "noise of the update")
        update = replace(
            update,
            weights=clip_and_noise(update.weights, broadcast.weights, config.noise, generator),
        )
    return _compress(update, broadcast, config.compression, state)


def unpacked(update: TwinUpdate, reference: Weights) -> TwinUpdate:
    """Return an update as its twin has it, for a receiver to whom only ``packed`` has travelled.

    Args:
        update: As it arrived; one that is not packed stays as it is.
        reference: The weights that were broadcast to this twin.

    Raises:
        CompressionError: If what arrived is not an update of these weights.
    """
    return (
        update
        if update.packed is None
        else replace(update, weights=unpack(update.packed, reference))
    )


def _compress(
    update: TwinUpdate, broadcast: Broadcast, config: CompressionConfig, state: TwinState
) -> tuple[TwinUpdate, TwinState]:
    if config.kind == "none" or not _is_finite(
        update.weights
    ):  # a model that is not finite leaves as it is: the server's screen says why
        return update, state
    before = {
        name.removeprefix(_RESIDUAL): value
        for name, value in state.kept.items()
        if name.startswith(_RESIDUAL)
    }
    packed, residual = pack(
        update.weights,
        broadcast.weights,
        config,
        before,
        generator_for(broadcast.seed, "round the update"),
    )
    kept = {
        **kept_by_method(state.kept),
        **{f"{_RESIDUAL}{name}": value for name, value in residual.items()},
    }
    return replace(update, weights=unpack(packed, broadcast.weights), packed=packed), replace(
        state, kept=kept
    )


def kept_by_method(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what is the method's of the tensors kept on a twin."""
    return {name: value for name, value in kept.items() if not name.startswith(_OWN)}


def kept_by_twin(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what is not the method's of the tensors kept on a twin.

    It survives whatever the method keeps.
    """
    return {name: value for name, value in kept.items() if name.startswith(_OWN)}


def generator_for(seed: int, what: str) -> torch.Generator:
    """Return a stream of its own for one purpose, so that it is not the one that trained."""
    digest = blake2b(f"{seed}\0{what}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def _is_finite(weights: Weights) -> bool:
    return all(bool(torch.isfinite(weights[name]).all()) for name in moved_names(weights))


def _noted(state: TwinState, round_number: int, what: str) -> TwinState:
    return replace(state, events=(*state.events, {"round": round_number, "what": what}))
