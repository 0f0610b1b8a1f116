"""Messages of secure aggregation, in the order of the protocol of ``twin.secure_sum.masking``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from torch import Tensor

from twin.secure_sum.mask_keys import canonical_bytes


@dataclass(frozen=True)
class Sealed:
    """A hospital's notice that it has trained and holds its update back.

    Args:
        twin_id: Sender.
        round: Number of the round.
        class_names: One per row of the trained head.
        public_key: X25519 key, made for this round.
        num_images: Images it trained on.
        metrics: As in ``TwinUpdate``.
        signature: Signature of round, twin, key and number of images by the hospital's long-term
            key; empty if it has none.
        opened_for: Sorted twins for whose sum it has revealed its mask in this round before, and
            for no others will; empty: it has not.
    """

    twin_id: str
    round: int
    class_names: tuple[str, ...]
    public_key: bytes
    num_images: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    signature: bytes = b""
    opened_for: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    """One hospital on a roster, with the values of its ``Sealed``."""

    public_key: bytes
    num_images: int
    signature: bytes = b""


@dataclass(frozen=True)
class Roster:
    """The server's list of the hospitals whose updates are summed.

    Args:
        round: Number of the round.
        class_names: One per row of the head.
        members: Hospitals by twin.
        mean: Whether hospitals have weights by their images, or equal ones.
    """

    round: int
    class_names: tuple[str, ...]
    members: Mapping[str, Member]
    mean: Literal["by_images", "equal"] = "by_images"

    @property
    def digest(self) -> str:
        """SHA-256 of the roster. Masks depend on it, so those of two rosters never cancel."""
        members = [
            [twin_id, each.public_key.hex(), each.num_images, each.signature.hex()]
            for twin_id, each in sorted(self.members.items())
        ]
        return sha256(
            canonical_bytes("roster", self.round, self.mean, list(self.class_names), members)
        ).hexdigest()

    def count(self, twin_id: str) -> int:
        """Return the weight of a hospital in the mean."""
        return self.members[twin_id].num_images if self.mean == "by_images" else 1

    @property
    def total(self) -> int:
        """Sum of all hospitals' weights."""
        return sum(self.count(twin_id) for twin_id in self.members)


@dataclass(frozen=True)
class Masked:
    """A hospital's masked share of the mean change.

    Args:
        twin_id: Sender.
        round: Number of the round.
        roster_digest: Digest of the roster.
        vector: Integers modulo 2^64 in a tensor of signed ones, shape [N].
    """

    twin_id: str
    round: int
    roster_digest: str
    vector: Tensor


@dataclass(frozen=True)
class OpenRequest:
    """The server's request to reveal each own mask, after all vectors of a roster have arrived.

    Args:
        round: Number of the round.
        roster_digest: Digest of the roster.
    """

    round: int
    roster_digest: str


@dataclass(frozen=True)
class OpenReply:
    """A hospital's answer with the seed of its own mask.

    Args:
        twin_id: Sender.
        round: Number of the round.
        roster_digest: Digest of the roster.
        seed: 32 bytes, useless without the other hospitals' vectors.
    """

    twin_id: str
    round: int
    roster_digest: str
    seed: bytes
