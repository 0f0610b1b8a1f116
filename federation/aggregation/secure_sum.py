"""Secure aggregation, the server's half: from hospitals that trained to one update, their sum.

Source: after Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning,
CCS 2017; what is left out, and what that costs, stands in docs/secure_aggregation.md. The server
adds up masked vectors modulo 2^64: pairwise masks cancel, hospitals' own masks are taken off with
the seeds that they open, and what is left is the mean change of the weights.

Who drops out before it has sent its vector: the others are asked again, for a smaller roster. Who
drops out after that: the round has no sum, because a hospital opens one roster in a round and no
second; if the round is repeated, it can have the sum of the same hospitals. Knows no transport
(``Ask`` is one) and no method but how it counts twins.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import fsum
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import pydantic.dataclasses
from numpy.typing import NDArray
from pydantic import ConfigDict

from federation.aggregation.means import Mean
from federation.aggregation.screening import ScreeningConfig
from federation.aggregation.secure_sum_checks import (
    objection,
    objection_to_seal,
    objection_to_seed,
    objection_to_vector,
    size_of,
)
from twin.messages import Broadcast, TwinUpdate
from twin.privacy.accounting import EPSILON
from twin.secure_sum.fixed_point import decode, num_elements
from twin.secure_sum.mask_keys import mask_stream
from twin.secure_sum.mask_messages import Masked, Member, OpenReply, OpenRequest, Roster, Sealed
from twin.secure_sum.masking import MIN_HOSPITALS

Verb = Literal["seal", "mask", "open"]
Ask = Callable[[Verb, Mapping[str, Any]], Mapping[str, Any]]
"""Sends each hospital its message; returns the answers that came in time, or their exceptions.

``seal``: a ``Broadcast``, answered by ``Sealed``; ``mask``: a ``Roster``, by ``Masked``; ``open``:
an ``OpenRequest``, by ``OpenReply``.
"""
Answer = TypeVar("Answer", Sealed, Masked, OpenReply)


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SecureAggregationConfig:
    """How updates are summed without being seen.

    Args:
        minimum_hospitals: A sum over fewer is not made; the round then leaves the model as it was.
        max_restarts: How often in a round the others are asked again when a hospital drops out.
        max_images: As in screening, which sees the sum alone: most images that one hospital may
            claim to have trained on.
    """

    minimum_hospitals: int = MIN_HOSPITALS
    max_restarts: int = 2
    max_images: int = ScreeningConfig().max_images

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.minimum_hospitals < MIN_HOSPITALS:
            raise ValueError(
                f"minimum_hospitals is {self.minimum_hospitals}; allowed: {MIN_HOSPITALS} or "
                "more, as each of two hospitals could read the other's update off the mean"
            )
        if self.max_restarts < 0:
            raise ValueError(f"max_restarts is {self.max_restarts}; allowed: 0 or more")
        if self.max_images < 1:
            raise ValueError(f"max_images is {self.max_images}; allowed: 1 or more")


@dataclass(frozen=True)
class Dropped:
    """A hospital that is not in the sum.

    Args:
        twin_id: Whose twin.
        verb: What it was asked.
        reason: Why it was left out, in words.
    """

    twin_id: str
    verb: Verb
    reason: str


@dataclass(frozen=True)
class SecureSum:
    """What became of a round.

    Args:
        update: The sum, as one update; none where there is none.
        members: Who is in it, in the order of the twins.
        dropped: Who is not, and why.
        restarts: How often the others were asked again.
        bytes_up: What each hospital sent, without framing.
        reason: Why there is no sum.
        only: Hospitals of which alone this round, if repeated, can have one, because some have
            opened for them; empty: of any. Where they do not come back, the next round has to do
            without this one.
    """

    update: TwinUpdate | None
    members: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    restarts: int
    bytes_up: Mapping[str, int]
    reason: str = ""
    only: tuple[str, ...] = ()


def secure_sum(
    broadcasts: Mapping[str, Broadcast], mean: Mean, config: SecureAggregationConfig, ask: Ask
) -> SecureSum:
    """Let hospitals train, and return the mean of their models without seeing one.

    Args:
        broadcasts: To those who shall train; the same model to all of them.
        mean: How they count.
        config: Limits.
        ask: Reaches the hospitals.

    Returns:
        An update whose weights are the global model's plus the mean change, whose images are all of
        theirs, and whose metrics are the mean of theirs. Nobody's failure is raised.
    """
    talk = _Talk(ask)
    if not broadcasts:
        return talk.without_sum(0, "nobody was asked to train")
    first = next(iter(broadcasts.values()))
    sealed = _with_keys_of_their_own(
        talk,
        talk(
            "seal", broadcasts, lambda answer: objection_to_seal(answer, first, config.max_images)
        ),
    )
    only = _opened_before(sealed)
    members = tuple(twin_id for twin_id in sealed if not only or twin_id in only)
    for twin_id in sealed.keys() - set(members):
        talk.drop(twin_id, "seal", "this round was opened for others before it was repeated")
    for restarts in range(config.max_restarts + 1):
        if only and set(members) != set(only):
            return talk.without_sum(
                restarts,
                f"the round was opened for {', '.join(only)} before; not all of them are there",
                only,
            )
        if len(members) < config.minimum_hospitals:
            return talk.without_sum(
                restarts,
                f"{len(members)} hospitals are left; a sum needs {config.minimum_hospitals}",
            )
        roster = _roster(first, {twin_id: sealed[twin_id] for twin_id in members}, mean)
        digest, length = roster.digest, num_elements(first.weights)
        fits = partial(objection_to_vector, digest=digest, length=length)
        masked = talk("mask", dict.fromkeys(members, roster), fits)
        if len(masked) == len(members):
            break
        members = tuple(masked)
    else:
        return talk.without_sum(
            config.max_restarts,
            f"hospitals dropped out {config.max_restarts + 1} times; max_restarts allows no more",
        )
    opened = talk(
        "open",
        dict.fromkeys(members, OpenRequest(first.round, digest)),
        lambda answer: objection_to_seed(answer, digest),
    )
    if len(opened) < len(members):
        return talk.without_sum(
            restarts,
            "a hospital dropped out before it opened its mask; a round is opened once",
            tuple(sorted(members)),
        )
    vector = unmasked_sum(
        [masked[twin_id] for twin_id in members], [opened[twin_id] for twin_id in members]
    )
    update = TwinUpdate(
        f"sum of {len(members)}",
        first.round,
        decode(vector, first.weights, roster.total),
        sum(sealed[twin_id].num_images for twin_id in members),
        metrics=_mean_metrics([sealed[twin_id].metrics for twin_id in members]),
        class_names=first.class_names,
        summed=members,
    )
    return SecureSum(update, members, tuple(talk.dropped), restarts, talk.bytes_up)


def unmasked_sum(masked: Sequence[Masked], opened: Sequence[OpenReply]) -> NDArray[np.uint64]:
    """Return the sum of hospitals' shares modulo 2^64, free of masks for a whole roster."""
    total = np.zeros(masked[0].vector.numel(), np.uint64)
    for each in masked:
        total += each.vector.numpy().view(np.uint64)
    for own in opened:
        total -= mask_stream(own.seed, len(total))
    return total


@runtime_checkable
class Summed(Protocol):
    """What the check asks of a method: how its aggregate counts twins, and what twins upload."""

    @property
    def sums(self) -> Mean | None:
        """How twins count in the mean; none where the server half reads single updates."""
        ...

    @property
    def uploads(self) -> tuple[str, ...]:
        """What twins upload beside their weights, in words."""
        ...


def check_secure_aggregation(
    config: SecureAggregationConfig,
    method: Summed,
    twins_per_round: int,
    *,
    robust: bool = False,
    compressed: bool = False,
) -> Mean:
    """Return how twins count, if this combination can be summed without seeing a single update.

    Args:
        config: Limits.
        method: How twins learn.
        twins_per_round: How many train in a round.
        robust: A robust mean (median, trimmed, Krum, clipping on the server) is configured.
        compressed: Updates are compressed.

    Raises:
        ValueError: If it cannot.
    """
    what = "federation.secure_aggregation is on and"
    if method.sums is None:
        more = "; ".join(method.uploads) or "see its file"
        raise ValueError(
            f"{what} method {type(method).__name__}, as it is set, reads single updates ({more}); "
            "allowed: a method whose aggregate is a "
            "mean of weights; let it upload nothing more where it can (fedka: reconstruction: "
            "null), or leave secure_aggregation out"
        )
    if robust:
        raise ValueError(
            f"{what} a robust mean is configured, which compares single updates; allowed: one of "
            "the two. Each hospital bounds the norm of "
            "its own change instead (max_relative_change); leave federation.robust or "
            "federation.secure_aggregation out"
        )
    if compressed:
        raise ValueError(
            f"{what} updates are compressed, but a masked vector is random and cannot be; allowed: "
            "one of the two; leave outgoing.compression or federation.secure_aggregation out"
        )
    if twins_per_round < config.minimum_hospitals:
        raise ValueError(
            f"{what} federation.twins_per_round is {twins_per_round}; allowed: minimum_hospitals, "
            f"{config.minimum_hospitals}, or more, as no round would have a sum"
        )
    return method.sums


@dataclass
class _Talk:
    """Asks, keeps what may be used, and writes down who dropped out and what was sent."""

    ask: Ask
    dropped: list[Dropped] = field(default_factory=list)
    bytes_up: dict[str, int] = field(default_factory=dict)

    def __call__(
        self, verb: Verb, messages: Mapping[str, Any], unfit: Callable[[Any], str | None]
    ) -> dict[str, Any]:
        answers = self.ask(verb, messages)
        usable = {}
        for twin_id, message in messages.items():
            answer = answers.get(twin_id)
            reason = objection(answer, twin_id, message.round) or unfit(answer)
            if reason is None:
                usable[twin_id] = answer
            else:
                self.drop(twin_id, verb, reason)
            self.bytes_up[twin_id] = self.bytes_up.get(twin_id, 0) + size_of(answer)
        return usable

    def drop(self, twin_id: str, verb: Verb, reason: str) -> None:
        self.dropped.append(Dropped(twin_id, verb, reason))

    def without_sum(self, restarts: int, reason: str, only: tuple[str, ...] = ()) -> SecureSum:
        return SecureSum(None, (), tuple(self.dropped), restarts, self.bytes_up, reason, only)


def _with_keys_of_their_own(talk: _Talk, sealed: Mapping[str, Sealed]) -> dict[str, Sealed]:
    """Leave out hospitals that sent the same key: every hospital would refuse the roster."""
    keys = [each.public_key for each in sealed.values()]
    for twin_id, each in sealed.items():
        if keys.count(each.public_key) > 1:
            talk.drop(twin_id, "seal", "sent the same key as another hospital")
    return {twin_id: each for twin_id, each in sealed.items() if keys.count(each.public_key) == 1}


def _opened_before(sealed: Mapping[str, Sealed]) -> tuple[str, ...]:
    """Return the roster this round was opened for before, as more than half of hospitals say.

    Fewer could choose by a lie who is summed with whom.
    """
    said = Counter(each.opened_for for each in sealed.values())
    only, times = max(said.items(), key=lambda each: each[1], default=((), 0))
    return only if 2 * times > len(sealed) else ()


def _roster(broadcast: Broadcast, sealed: Mapping[str, Sealed], mean: Mean) -> Roster:
    members = {
        twin_id: Member(each.public_key, each.num_images, each.signature)
        for twin_id, each in sealed.items()
    }
    return Roster(broadcast.round, broadcast.class_names, members, mean)


def _mean_metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each number over hospitals, each counted the same.

    Of the privacy spent, the most: a mean would hide the hospital that has spent it.
    """
    names = sorted({name for each in metrics for name in each})
    means = {name: fsum(each.get(name, 0.0) for each in metrics) / len(metrics) for name in names}
    return means | {
        name: max(each.get(name, 0.0) for each in metrics) for name in names if name == EPSILON
    }
