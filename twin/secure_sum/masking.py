"""Secure aggregation, hospital's half: masks updates so that only their sum is readable.

A round has three steps:

* *Seal*: the update stays, a new public key leaves.
* *Mask*: the server's roster arrives. The hospital's share of the mean change leaves, plus one mask
  for each other hospital (one adds what the other subtracts), plus a mask of its own.
* *Open*: the seed of its own mask leaves, for one roster of a round and never for a second.

Pairwise masks cancel in the sum over the roster alone. The own mask makes a vector useless that is
late or belongs to an abandoned roster.

After Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS
2017, without its secret sharing: if hospitals drop out, a smaller roster follows. What the server
may learn is in docs/secure_aggregation.md.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import fsum
from typing import Any

import numpy as np
import pydantic.dataclasses
import torch
from pydantic import ConfigDict

from incremental.head import Weights
from incremental.weight_tensors import parameters_of
from twin.messages import TwinUpdate
from twin.secure_sum.fixed_point import Change, change_of, encode
from twin.secure_sum.mask_keys import (
    KEY_BYTES,
    MaskingError,
    canonical_bytes,
    has_valid_signature,
    is_hex_key,
    mask_stream,
    new_round_key,
    pair_key,
    sign,
)
from twin.secure_sum.mask_messages import Masked, Member, OpenReply, OpenRequest, Roster, Sealed

MIN_HOSPITALS = 3  # with two, each could compute the other's update from the mean


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MaskingConfig:
    """A hospital's own conditions, which the server cannot change.

    Args:
        minimum_hospitals: Fewest hospitals of a roster.
        max_relative_change: Largest norm of (local - global) parameters as a multiple of the global
            norm. The server cannot screen masked updates, so each hospital checks its own.
        pinned_keys: Long-term Ed25519 public keys of the hospitals, by twin, in hexadecimal: a
            roster with another hospital, or with a key that its hospital has not signed, is
            refused. None: the server is trusted to pass on the right keys.
    """

    minimum_hospitals: int = MIN_HOSPITALS
    max_relative_change: float = 10.0
    pinned_keys: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.minimum_hospitals < MIN_HOSPITALS:
            raise ValueError(
                f"minimum_hospitals is {self.minimum_hospitals}; allowed: {MIN_HOSPITALS} or "
                "more, as each of two hospitals could compute the other's update from the mean"
            )
        if not self.max_relative_change > 0:
            raise ValueError(f"max_relative_change is {self.max_relative_change}; allowed: above 0")
        for twin_id, key in (self.pinned_keys or {}).items():
            if not is_hex_key(key):
                raise ValueError(
                    f"pinned_keys.{twin_id} is {key!r}; allowed: {KEY_BYTES} bytes as "
                    f"{2 * KEY_BYTES} hexadecimal digits"
                )


@dataclass(frozen=True)
class _HeldUpdate:
    """An update that must not leave, and the secrets that mask it."""

    sealed: Sealed
    trained: tuple[int, str]
    private_key: Any = field(repr=False)
    change: Change = field(repr=False)
    roster: Roster | None = None
    seed: bytes = field(default=b"", repr=False)


class Masker:
    """Protocol of one hospital: holds an update back and refuses requests that would reveal it.

    It lives as long as the hospital's process. Between rounds it keeps only the hospitals for which
    it opened: a repeated round (same number, same model) is opened for the same hospitals or not at
    all, as two sums that differ by one hospital reveal its update.

    Args:
        twin_id: Twin of the hospital.
        config: The hospital's conditions.
        identity: The hospital's long-term Ed25519 private key, 32 bytes; none: nothing is signed.
    """

    def __init__(
        self, twin_id: str, config: MaskingConfig | None = None, identity: bytes | None = None
    ) -> None:
        self.twin_id = twin_id
        self._config = config or MaskingConfig()
        self._identity = identity
        self._held: _HeldUpdate | None = None
        self._opened: dict[tuple[int, str], tuple[str, tuple[str, ...]]] = {}
        if self._config.pinned_keys is not None and identity is None:
            raise MaskingError(
                f"{twin_id} has pinned_keys and no long-term key of its own; others would refuse "
                "it; give it one (long_term_key)"
            )

    def seal(self, update: TwinUpdate, reference: Weights) -> Sealed:
        """Hold an update back, in place of any earlier one, and return the notice for the server.

        Args:
            update: Update of this twin.
            reference: The global model that it was trained from.

        Raises:
            MaskingError: If the update holds more than weights, or changed too much.
            FixedPointError: If the change cannot be written in fixed point.
        """
        self.forget()
        if update.twin_id != self.twin_id:
            raise MaskingError(f"the update is {update.twin_id}'s; allowed: {self.twin_id}'s own")
        if update.upload:
            raise MaskingError(
                f"the update holds {', '.join(sorted(update.upload))} besides weights; allowed: "
                "weights, which alone are summed"
            )
        if update.packed is not None:
            raise MaskingError(
                "the update is compressed; allowed: whole weights, as a masked vector is random "
                "and cannot be compressed"
            )
        if update.num_images < 1:
            raise MaskingError(
                f"the update is trained on {update.num_images} images; allowed: 1 or more"
            )
        change = change_of(update.weights, reference)
        self._check_size(update.weights, reference)
        private_key, public_key = new_round_key()
        signature = b""
        if self._identity is not None:
            content = _signed_content(self.twin_id, update.round, public_key, update.num_images)
            signature = sign(self._identity, content)
        trained = update.round, _digest(reference)
        _, opened_for = self._opened.get(trained, ("", ()))
        sealed = Sealed(
            self.twin_id,
            update.round,
            update.class_names,
            public_key,
            update.num_images,
            update.metrics,
            signature,
            opened_for,
        )
        self._held = _HeldUpdate(sealed, trained, private_key, change)
        return sealed

    def mask(self, roster: Roster) -> Masked:
        """Return this hospital's share of the mean change under a roster's masks.

        Raises:
            MaskingError: If the roster is refused.
            FixedPointError: If a counter is out of range.
        """
        held = self._held_for(roster)
        digest, own = roster.digest, held.sealed
        vector = encode(held.change, roster.count(self.twin_id), roster.total)
        for twin_id, member in roster.members.items():
            if twin_id != self.twin_id:
                key = pair_key(
                    held.private_key, member.public_key, own.round, digest, (self.twin_id, twin_id)
                )
                pair = mask_stream(key, len(vector))
                vector = vector + pair if self.twin_id < twin_id else vector - pair
        seed = secrets.token_bytes(KEY_BYTES)
        self._held = replace(held, roster=roster, seed=seed)
        vector = vector + mask_stream(seed, len(vector))
        return Masked(self.twin_id, own.round, digest, torch.from_numpy(vector.view(np.int64)))

    def open(self, request: OpenRequest) -> OpenReply:
        """Return the seed of this hospital's own mask, and forget the round's update and secrets.

        Raises:
            MaskingError: If another roster was masked last, or this round was opened for other
                hospitals before.
        """
        held = self._held
        if held is None or held.roster is None:
            raise MaskingError(
                f"{self.twin_id} was asked to open round {request.round} and has masked nothing, "
                "or has opened it already"
            )
        if (request.round, request.roster_digest) != (held.roster.round, held.roster.digest):
            raise MaskingError(
                f"{self.twin_id} was asked to open roster {request.roster_digest[:12]} of round "
                f"{request.round}; allowed: what it masked "
                f"last, {held.roster.digest[:12]} of round {held.roster.round}"
            )
        summed = held.roster.mean, tuple(sorted(held.roster.members))
        if self._opened.setdefault(held.trained, summed) != summed:
            raise MaskingError(
                f"{self.twin_id} has opened round {request.round} for other hospitals before; two "
                "sums that differ by one hospital show that hospital's update; allowed: the same "
                "hospitals, or the next round"
            )
        self.forget()
        return OpenReply(self.twin_id, request.round, request.roster_digest, held.seed)

    def forget(self) -> None:
        """Forget the update and the round's secrets."""
        self._held = None

    def _check_size(self, local: Weights, reference: Weights) -> None:
        """Refuse a change above the limit, as the server's screening does with visible updates."""
        parameters = parameters_of(reference)
        squares = (
            float((local[name].double() - value.double()).square().sum())
            for name, value in parameters.items()
        )
        change = fsum(squares) ** 0.5
        size = fsum(float(value.double().square().sum()) for value in parameters.values()) ** 0.5
        if change > self._config.max_relative_change * size:
            times = change / size if size else float("inf")
            raise MaskingError(
                f"the update changed by {times:.1f} times the global norm; allowed: "
                f"{self._config.max_relative_change:g}"
            )

    def _held_for(self, roster: Roster) -> _HeldUpdate:
        """Return the update that is held, if it may be masked for this roster."""
        held, who = self._held, f"{self.twin_id} refuses a roster of round {roster.round}"
        if held is None:
            raise MaskingError(f"{who}: it holds no update, or has opened it already")
        own = held.sealed
        if roster.round != own.round:
            raise MaskingError(f"{who}: it sealed round {own.round}")
        if roster.class_names != own.class_names:
            raise MaskingError(f"{who}: it is for other classes than those trained")
        if roster.members.get(self.twin_id) != Member(
            own.public_key, own.num_images, own.signature
        ):
            raise MaskingError(
                f"{who}: what it says of {self.twin_id} is not what {self.twin_id} sealed (key, "
                "images and signature)"
            )
        if len(roster.members) < self._config.minimum_hospitals:
            raise MaskingError(
                f"{who}: it has {len(roster.members)} hospitals; allowed: "
                f"{self._config.minimum_hospitals} or more"
            )
        if any(
            each.num_images < 1 or len(each.public_key) != KEY_BYTES
            for each in roster.members.values()
        ):
            raise MaskingError(f"{who}: a hospital has no image, or no key of {KEY_BYTES} bytes")
        if len({each.public_key for each in roster.members.values()}) < len(roster.members):
            raise MaskingError(f"{who}: two hospitals have one key")
        before = held.roster
        if before is not None and not (
            roster.mean == before.mean and roster.members.items() < before.members.items()
        ):
            raise MaskingError(
                f"{who}: it is not a part of the roster before; allowed: fewer of the same "
                "hospitals, nothing else changed"
            )
        if self._config.pinned_keys is not None:
            for twin_id, member in roster.members.items():
                pinned = self._config.pinned_keys.get(twin_id)
                self._check_signature(who, twin_id, member, roster.round, pinned)
        return held

    def _check_signature(
        self, who: str, twin_id: str, member: Member, round_number: int, pinned: str | None
    ) -> None:
        if pinned is None:
            if twin_id == self.twin_id:
                return
            raise MaskingError(
                f"{who}: {twin_id} is not among pinned_keys; add its long-term key, or keep it out "
                "of the federation"
            )
        content = _signed_content(twin_id, round_number, member.public_key, member.num_images)
        if not has_valid_signature(pinned, member.signature, content):
            raise MaskingError(
                f"{who}: the key of {twin_id} is not signed by the long-term key that is pinned "
                "for it"
            )


def _digest(weights: Weights) -> str:
    """Return a digest that identifies a global model."""
    digest = sha256()
    for name, value in sorted(weights.items()):
        digest.update(canonical_bytes(name, str(value.dtype), list(value.shape)))
        digest.update(value.detach().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _signed_content(twin_id: str, round_number: int, public_key: bytes, num_images: int) -> bytes:
    """Return the bytes that a hospital signs with its long-term key."""
    return canonical_bytes("seal", round_number, twin_id, public_key.hex(), num_images)
