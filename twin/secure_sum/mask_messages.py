"""Messages of secure aggregation, in the order of the protocol.

Beside ``twin.messages``, which holds all that crosses it otherwise. What each step is for stands in
``twin.secure_sum.masking``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from torch import Tensor

from twin.secure_sum.mask_keys import encoded


@dataclass(frozen=True)
class Sealed:
    """Up: I have trained, and hold my update back.

    Args:
        twin_id: Who.
        round: When.
        class_names: One per row of the head that was trained.
        public_key: X25519, made for this round.
        num_images: Images it trained on.
        metrics: As in ``TwinUpdate``.
        signature: Of round, twin, key and images by the hospital's long-term key; empty where
            hospitals have none.
        opened_for: Twins for whose sum it has opened this very round before, sorted: it will do so
            for no others; empty: it has not.
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
    """What a roster says of one hospital; as it was sealed."""

    public_key: bytes
    num_images: int
    signature: bytes = b""


@dataclass(frozen=True)
class Roster:
    """Down: these hospitals are summed.

    Args:
        round: When.
        class_names: One per row of the head.
        members: By twin.
        mean: Hospitals count by their images, or all the same.
    """

    round: int
    class_names: tuple[str, ...]
    members: Mapping[str, Member]
    mean: Literal["by_images", "equal"] = "by_images"

    @property
    def digest(self) -> str:
        """SHA-256 of all of it.

        Each mask depends on it, so masks of two rosters never cancel each other.
        """
        members = [
            [twin_id, each.public_key.hex(), each.num_images, each.signature.hex()]
            for twin_id, each in sorted(self.members.items())
        ]
        return sha256(
            encoded("roster", self.round, self.mean, list(self.class_names), members)
        ).hexdigest()

    def count(self, twin_id: str) -> int:
        """Return what a hospital counts."""
        return self.members[twin_id].num_images if self.mean == "by_images" else 1

    @property
    def total(self) -> int:
        """Sum of what all hospitals count."""
        return sum(self.count(twin_id) for twin_id in self.members)


@dataclass(frozen=True)
class Masked:
    """Up: my share, masked.

    Args:
        twin_id: Who.
        round: When.
        roster_digest: Which roster's masks.
        vector: 64-bit integers modulo 2^64, whose sign says nothing, shape [N].
    """

    twin_id: str
    round: int
    roster_digest: str
    vector: Tensor


@dataclass(frozen=True)
class Opening:
    """Down: every vector of this roster has come; take your own mask off.

    Args:
        round: When.
        roster_digest: Which roster.
    """

    round: int
    roster_digest: str


@dataclass(frozen=True)
class Opened:
    """Up: the seed of my own mask.

    Args:
        twin_id: Who.
        round: When.
        roster_digest: For which roster.
        seed: 32 bytes; worth nothing without the others' vectors.
    """

    twin_id: str
    round: int
    roster_digest: str
    seed: bytes
