"""Weight cache: model weights known by their digest are not sent again.

A group is the weights of one model. The receiver keeps the last few groups, the sender notes which
of them each receiver has acknowledged and leaves them out; a receiver that lacks one after all says
so, and is sent it.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator, MutableMapping
from hashlib import sha256

from federation.flare.tensor_block import pieces
from incremental.head import Weights
from twin.messages import num_bytes


# No fault of anybody: the receiver asks for what it lacks.
class MissingGroups(ValueError):  # noqa: N818
    """A record left out weights that the receiver does not hold.

    The sender is to send it again with them.

    Args:
        digests: Of the groups that are missing.
    """

    def __init__(self, digests: tuple[str, ...]) -> None:
        self.digests = digests
        shown = ", ".join(each[:12] for each in digests)
        super().__init__(
            f"the record leaves out weights {shown}, which are not held here; send it again with "
            "them"
        )


def digest_of(weights: Weights) -> str:
    """Return the SHA-256 of the safetensors file of these weights.

    Names in their order, types, shapes and bytes.
    """
    state = sha256()
    for piece in pieces(weights):
        state.update(piece)
    return state.hexdigest()


class KnownDigests:
    """``digest_of`` for a sender that sends the same weights to many.

    Remembers the last few it was asked for.

    Weights are known by identity, so they must not be changed in place. Not for several threads.

    Args:
        most: How many are remembered; they are held in memory as long.
    """

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._known: list[tuple[Weights, str]] = []

    def __call__(self, weights: Weights) -> str:
        """Return the digest of these weights."""
        for known, digest in self._known:
            if known is weights:
                return digest
        digest = digest_of(weights)
        self._known = [*self._known, (weights, digest)][-self._most :]
        return digest


class GroupCache(MutableMapping[str, Weights]):
    """The groups that a receiver holds: those used last, as many as fit.

    Args:
        most_bytes: What they may take together; a group that is larger is not kept.
    """

    def __init__(self, most_bytes: int) -> None:
        if most_bytes < 0:
            raise ValueError(f"most_bytes is {most_bytes}; allowed: 0 or more")
        self._most_bytes = most_bytes
        self._held: OrderedDict[str, Weights] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """What the groups take together."""
        return num_bytes(*self._held.values())

    def __getitem__(self, digest: str) -> Weights:
        weights = self._held[digest]
        self._held.move_to_end(digest)
        return weights

    def __setitem__(self, digest: str, weights: Weights) -> None:
        self._held.pop(digest, None)
        if num_bytes(weights) > self._most_bytes:
            return
        self._held[digest] = weights
        while self.num_bytes > self._most_bytes:
            self._held.popitem(last=False)

    def __delitem__(self, digest: str) -> None:
        del self._held[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._held))

    def __len__(self) -> int:
        return len(self._held)


class Acknowledged:
    """What a sender knows that each receiver holds: the groups that it acknowledged last.

    Args:
        most: Groups noted for one receiver.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._noted: dict[str, tuple[str, ...]] = {}

    def by(self, receiver: str) -> frozenset[str]:
        """Return the digests that need not be sent to a receiver."""
        return frozenset(self._noted.get(receiver, ()))

    def note(self, receiver: str, digests: Collection[str]) -> None:
        """Take note that a receiver has opened a record with these groups."""
        known = dict.fromkeys(
            (*(each for each in self._noted.get(receiver, ()) if each not in digests), *digests)
        )
        self._noted[receiver] = tuple(known)[-self._most :]

    def forget(self, receiver: str, digests: Collection[str] | None = None) -> None:
        """Take note that a receiver lacks these groups.

        None: that it began anew and holds nothing.
        """
        left = (
            ()
            if digests is None
            else tuple(each for each in self._noted.get(receiver, ()) if each not in digests)
        )
        self._noted[receiver] = left
