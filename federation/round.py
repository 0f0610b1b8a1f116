"""One round of the federation: observe, remember, grow, broadcast, train, aggregate. Read this first.

Simulation, worker processes and a deployment run this same function: an engine is where twins live, with two verbs. Nobody here is told
a task number; the server's task is how often its head has grown, and it grows because twins detect.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import pydantic.dataclasses
from pydantic import ConfigDict, Field

from federation.aggregation.robust import RobustConfig, defend
from federation.aggregation.screening import Rejection, ScreeningConfig, screen
from federation.aggregation.secure_sum import SecureAggregationConfig
from federation.method import Method
from federation.seeding import seed_for
from federation.server import ServerState, grow_for_new_classes, with_usual_entropy
from incremental.proxy import ProxyServer, StoredModel
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate, num_bytes


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class RoundConfig:
    """How a round is run.

    Args:
        twins_per_round: Twins that train, drawn without replacement from those with something to learn (paper: 5).
        observers_per_round: Twins that look at their data, drawn without replacement from those that take part; those who train are drawn
            among them. A twin catches up when it is drawn. None: every twin looks in every round (paper).
        screening: Which updates are turned away.
        robust: How those that are not are defended against each other.
        secure_aggregation: How updates are summed without being seen; none: the server sees each.
    """

    twins_per_round: int = 5
    observers_per_round: int | None = None
    screening: ScreeningConfig = Field(default_factory=ScreeningConfig)
    robust: RobustConfig = Field(default_factory=RobustConfig)
    secure_aggregation: SecureAggregationConfig | None = None

    def __post_init__(self) -> None:
        """Check the range."""
        if self.twins_per_round < 1:
            raise ValueError(f"twins_per_round is {self.twins_per_round}; allowed: 1 or more")
        if self.observers_per_round is not None and self.observers_per_round < self.twins_per_round:
            raise ValueError(
                f"observers_per_round is {self.observers_per_round}; allowed: at least twins_per_round, which is {self.twins_per_round} "
                "(who trains has looked), or none for every twin"
            )
        self.robust.check_possible(self.twins_per_round)


@runtime_checkable
class Engine(Protocol):
    """Where twins run."""

    def present(self, round_number: int) -> Sequence[str]:
        """Return who takes part in a round, in the order of the twins."""
        ...

    def observe(self, model: GlobalModel, twin_ids: Sequence[str]) -> Sequence[Observation]:
        """Let these twins look at their data; in this order."""
        ...

    def train(self, method: Method, broadcasts: Mapping[str, Broadcast]) -> Sequence[TwinUpdate]:
        """Let these twins train; in the order of the broadcasts."""
        ...


@dataclass(frozen=True)
class RoundRecord:
    """What happened in a round.

    Args:
        round: Its number, from 0.
        observations: Of every twin that looked.
        chosen: Twins that were asked to train.
        accepted: Updates as they were aggregated.
        rejected: Updates that were not, with the reason.
        grew: Class names that were added.
        closed: The task's best model, where a task ended.
        best: The best model of the open task before this round trained; none at its beginning.
        bytes_up: Size of all updates.
        bytes_down: Size of all broadcasts and of the model that twins looked with.
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
    """Run one round.

    Args:
        server: Where the server stands.
        engine: Where twins run.
        method: How twins learn and how the server aggregates.
        proxy: Keeper of the best and the old model; changed in place.
        config: Participation, screening and defence.

    Returns:
        The server after the round, and the record of it. If every update is rejected the model stays as it was.
    """
    observations = observe(
        server, engine, config
    )  # physical -> twin: what is new, how it looks to the model
    consider(server, observations, method, proxy)
    server, grew = grow_for_new_classes(
        server, observations
    )  # before anyone trains: one shape per round
    closed = (
        proxy.close_task(server.round) if grew else None
    )  # the best model becomes the old model; its score is forgotten
    server = with_usual_entropy(server, observations)
    chosen = choose_twins(observations, server, config)
    broadcasts = {twin_id: method.broadcast(server, proxy.old_model, twin_id) for twin_id in chosen}
    updates = engine.train(method, broadcasts)
    sums = config.secure_aggregation is not None
    fitting, rejected = screen(
        updates, server, chosen, method.upload_kinds.of, config.screening, sums
    )  # shape, norm: with the reason
    accepted, outvoted = defend(
        fitting, server, method.upload_kinds, config.robust
    )  # off: as they are; else what a few cannot steer
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


def observe(server: ServerState, engine: Engine, config: RoundConfig) -> Sequence[Observation]:
    """Let those twins look at their data whose turn it is in this round."""
    return engine.observe(
        server.model, choose_observers(engine.present(server.round), server, config)
    )


def consider(
    server: ServerState, observations: Sequence[Observation], method: Method, proxy: ProxyServer
) -> None:
    """Let the proxy server judge the global model as it stands."""
    if server.class_names:
        score = method.score(server, observations)
        proxy.consider(StoredModel(server.weights, server.class_names, server.round, score))


def choose_observers(
    present: Sequence[str], server: ServerState, config: RoundConfig
) -> Sequence[str]:
    """Draw who looks: those who take part, or as many of them as are asked for, in the order of the twins."""
    if config.observers_per_round is None or config.observers_per_round >= len(present):
        return present
    rng = np.random.default_rng(seed_for(server.seed, "observe", server.round))
    drawn = rng.choice(len(present), config.observers_per_round, replace=False, shuffle=False)
    return tuple(present[index] for index in sorted(drawn))


def choose_twins(
    observations: Sequence[Observation], server: ServerState, config: RoundConfig
) -> tuple[str, ...]:
    """Draw who trains: those who answered and have images of a class that the federation knows."""
    willing = [each.twin_id for each in observations if each.num_trainable]
    rng = np.random.default_rng(seed_for(server.seed, "choose", server.round))
    drawn = rng.permutation(len(willing))[: config.twins_per_round]
    return tuple(willing[index] for index in sorted(drawn))


def _size(broadcast: Broadcast) -> int:
    old = {} if broadcast.old_model is None else broadcast.old_model.weights
    return num_bytes(broadcast.weights, old, broadcast.extras)
