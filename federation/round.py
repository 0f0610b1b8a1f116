"""One round of the federation: observe, remember, grow, broadcast, train, merge. Read this first.

This is the synchronous topology: the server waits for all who were asked. Simulation, worker
processes and a deployment over a network run this same function: an engine is where twins run.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import pydantic.dataclasses
from pydantic import ConfigDict, Field

from federation.aggregation.robust import RobustConfig, defend
from federation.aggregation.screening import Rejection, ScreeningConfig, screen
from federation.aggregation.secure_sum import SecureAggregationConfig
from federation.method import Method
from federation.seeding import seed_for
from federation.server import (
    SETTLE_ROUNDS,
    ServerState,
    grow_for_new_classes,
    with_usual_entropy,
)
from incremental.proxy import ProxyServer, StoredModel
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate, num_bytes

Answer = TypeVar("Answer", Observation, TwinUpdate)


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RoundConfig:
    """How a round is run.

    Args:
        twins_per_round: Twins that train, drawn without replacement from those with images of a
            known class (paper: 5).
        observers_per_round: Twins that observe their data, drawn without replacement from those
            present; those that train are drawn among them. A twin catches up when it is drawn.
            None: every twin observes in every round (paper).
        settle_rounds: Classes announced up to this many rounds after a task began belong to it.
        screening: Which updates are rejected.
        robust: How the others are defended against each other.
        secure_aggregation: How updates are summed under masks; none: the server sees each.
    """

    twins_per_round: int = 5
    observers_per_round: int | None = None
    settle_rounds: int = SETTLE_ROUNDS
    screening: ScreeningConfig = Field(default_factory=ScreeningConfig)
    robust: RobustConfig = Field(default_factory=RobustConfig)
    secure_aggregation: SecureAggregationConfig | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.twins_per_round < 1:
            raise ValueError(f"twins_per_round is {self.twins_per_round}; allowed: 1 or more")
        if self.observers_per_round is not None and self.observers_per_round < self.twins_per_round:
            raise ValueError(
                f"observers_per_round is {self.observers_per_round}; allowed: at least "
                f"twins_per_round, which is {self.twins_per_round} (a twin that trains has "
                "observed), or none for every twin"
            )
        if self.settle_rounds < 0:
            raise ValueError(f"settle_rounds is {self.settle_rounds}; allowed: 0 or more")
        self.robust.check_possible(self.twins_per_round)


@runtime_checkable
class Engine(Protocol):
    """Where twins run. Both verbs may answer as results come in, in any order."""

    def present(self, round_number: int) -> Sequence[str]:
        """Return the twins that take part in a round, in the order of the twins."""
        ...

    def observe(self, model: GlobalModel, twin_ids: Sequence[str]) -> Iterable[Observation]:
        """Let these twins observe their data with the global model."""
        ...

    def train(self, method: Method, broadcasts: Mapping[str, Broadcast]) -> Iterable[TwinUpdate]:
        """Let these twins train."""
        ...


@dataclass(frozen=True)
class RoundRecord:
    """What happened in a round.

    Args:
        round: Its number, from 0.
        observations: Of every twin that observed.
        chosen: Twins that were asked to train.
        accepted: Updates as they were merged.
        rejected: Updates that were not, with the reason.
        grew: Class names that were added.
        closed: The task's best model, where a task ended.
        best: The best model of the open task before this round trained; none at its beginning.
        bytes_up: Size of all updates.
        bytes_down: Size of all broadcasts and of the model that twins observed with.
    """

    round: int
    observations: tuple[Observation, ...]
    chosen: tuple[str, ...]
    accepted: tuple[TwinUpdate, ...]
    rejected: tuple[Rejection, ...]
    grew: tuple[str, ...]
    closed: StoredModel | None
    best: StoredModel | None
    bytes_up: int
    bytes_down: int


def run_round(
    server: ServerState, engine: Engine, method: Method, proxy: ProxyServer, config: RoundConfig
) -> tuple[ServerState, RoundRecord]:
    """Run one synchronous round.

    Args:
        server: Where the server stands.
        engine: Where twins run.
        method: How twins learn and how the server merges.
        proxy: Keeper of the best and the old model; changed in place.
        config: Participation, screening and defence.

    Returns:
        The server after the round, and the record of it. The model stays as it was if every
        update is rejected.
    """
    # Physical entity -> twin: what is new, and how it looks to the global model.
    observations = observe(server, engine, config)
    consider(server, observations, method, proxy)
    # The head grows before anyone trains, so that a round has one shape.
    before = server.task
    server, grew = grow_for_new_classes(server, observations)
    closed = remember(proxy, grew, new_task=server.task > before)
    server = with_usual_entropy(server, observations)
    # Server -> twins, and back.
    chosen = choose_twins(observations, server, config)
    broadcasts = {twin: method.broadcast(server, proxy.old_model, twin) for twin in chosen}
    updates = in_order(engine.train(method, broadcasts), chosen)
    # Screening judges each update by itself, the robust rule judges them by each other.
    summed = config.secure_aggregation is not None
    fitting, rejected = screen(
        updates, server, chosen, method.upload_kinds.by_tensor, config.screening, summed
    )
    accepted, outvoted = defend(fitting, server, method.upload_kinds, config.robust)
    record = RoundRecord(
        server.round,
        tuple(observations),
        chosen,
        accepted,
        (*rejected, *outvoted),
        grew,
        closed,
        proxy.best,
        bytes_up=sum(each.num_bytes for each in updates),
        bytes_down=len(observations) * num_bytes(server.weights)
        + sum(_size(each) for each in broadcasts.values()),
    )
    server = method.aggregate(server, accepted) if accepted else server
    return replace(server, round=server.round + 1), record


def observe(server: ServerState, engine: Engine, config: RoundConfig) -> list[Observation]:
    """Let the observers of this round observe, and return what they report, in their order."""
    observers = choose_observers(engine.present(server.round), server, config)
    return in_order(engine.observe(server.model, observers), observers)


def in_order(answers: Iterable[Answer], twin_ids: Sequence[str]) -> list[Answer]:
    """Return all answers in the order of the twins, in whatever order they come."""
    position = {twin_id: index for index, twin_id in enumerate(twin_ids)}
    return sorted(answers, key=lambda each: position.get(each.twin_id, len(position)))


def consider(
    server: ServerState, observations: Sequence[Observation], method: Method, proxy: ProxyServer
) -> None:
    """Let the proxy server score the global model as it stands."""
    if server.class_names:
        score = method.score(server, observations)
        proxy.consider(StoredModel(server.weights, server.class_names, server.round, score))


def remember(proxy: ProxyServer, grew: Sequence[str], *, new_task: bool) -> StoredModel | None:
    """Make the task's best model the old model where a task begins, and return it."""
    if new_task:
        return proxy.close_task()
    if grew:
        proxy.forget_best()
    return None


def choose_observers(
    present: Sequence[str], server: ServerState, config: RoundConfig
) -> Sequence[str]:
    """Draw the twins that observe, in the order of the twins."""
    if config.observers_per_round is None or config.observers_per_round >= len(present):
        return present
    rng = np.random.default_rng(seed_for(server.seed, "observe", server.round))
    drawn = rng.choice(len(present), config.observers_per_round, replace=False, shuffle=False)
    return tuple(present[index] for index in sorted(drawn))


def choose_twins(
    observations: Sequence[Observation], server: ServerState, config: RoundConfig
) -> tuple[str, ...]:
    """Draw the twins that train, among observers with images of a known class."""
    willing = [each.twin_id for each in observations if each.num_trainable]
    rng = np.random.default_rng(seed_for(server.seed, "choose", server.round))
    drawn = rng.permutation(len(willing))[: config.twins_per_round]
    return tuple(willing[index] for index in sorted(drawn))


def _size(broadcast: Broadcast) -> int:
    old = {} if broadcast.old_model is None else broadcast.old_model.weights
    return num_bytes(broadcast.weights, old, broadcast.extras)
