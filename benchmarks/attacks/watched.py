"""A federation in this process that an attacker watches.

The platform's own rounds, and the simulation's truth to judge guesses by.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.engines.sequential import SequentialEngine
from federation.experiment.config import ExperimentConfig
from federation.experiment.evaluation import Evaluator
from federation.experiment.setup import ExperimentSetup
from federation.method import Method
from federation.round import RoundRecord, run_round
from federation.server import ServerState, new_server
from incremental.proxy import ProxyServer
from physical.datasets.dataset import ImageDataset
from physical.planning import plan_scenario
from twin.state import TwinState


@dataclass(frozen=True)
class Watched:
    """A run that is over.

    Args:
        setup: Its plan.
        servers: The server after each round: what it could keep.
        records: Of each round, with every update that arrived.
        states: Where each twin stands: the truth, which no server sees.
        trained: Positions of all images that each twin has ever trained on: the truth as well.
    """

    setup: ExperimentSetup
    servers: tuple[ServerState, ...]
    records: tuple[RoundRecord, ...]
    states: Mapping[str, TwinState]
    trained: Mapping[str, NDArray[np.int64]]

    @property
    def members(self) -> NDArray[np.int64]:
        """Positions of all images that anybody has ever trained on."""
        return np.unique(np.concatenate(list(self.trained.values())))

    def accuracy(self, server: ServerState, most: int | None = None) -> float:
        """Return the accuracy of a server's model on test images of the classes seen so far."""
        task = self.setup.scenario.task_at(server.round - 1)
        return self.setup.evaluator.evaluate(
            server.weights, server.class_names, task, most
        ).accuracy


def watch(config: ExperimentConfig, data: ImageDataset, method: Method | None = None) -> Watched:
    """Run an experiment round by round, on images that may be fewer than the data set's.

    Args:
        config: The experiment.
        data: Its images; positions of everything point into ``data.train``.
        method: Learns in the place of the configuration's.
    """
    scenario = plan_scenario(
        data.train.labels, data.sheet.class_names, config.scenario, config.hospitals, config.seed
    )
    setup = ExperimentSetup(
        config, data, scenario, Evaluator(data.test, scenario.tasks, config.network)
    )
    engine, proxy, server = (
        SequentialEngine(setup.hospitals()),
        ProxyServer(config.proxy),
        new_server(config.network, config.seed, config.federation.settle_rounds),
    )
    servers, records = [], []
    trained: dict[str, NDArray[np.int64]] = {}
    for _ in range(scenario.num_rounds):
        server, record = run_round(
            server, engine, method or config.method, proxy, config.federation
        )
        servers.append(server)
        records.append(record)
        for twin_id in record.chosen:
            state = engine.states[twin_id]
            used = (
                trained.get(twin_id, np.empty(0, np.int64)),
                state.current,
                state.memory.all_positions(),
            )
            trained[twin_id] = np.unique(np.concatenate(used))
    return Watched(setup, tuple(servers), tuple(records), dict(engine.states), trained)
