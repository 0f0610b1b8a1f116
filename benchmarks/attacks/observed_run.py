"""Runs a federation and keeps what an attacking server sees, and the truth to judge guesses."""

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
class ObservedRun:
    """A finished run.

    Args:
        setup: The prepared experiment.
        servers: State of the server after each round.
        records: Record of each round, with every update that arrived.
        states: Final state of each twin; hidden from the server.
        trained: Positions of all images that each twin trained on; hidden from the server.
    """

    setup: ExperimentSetup
    servers: tuple[ServerState, ...]
    records: tuple[RoundRecord, ...]
    states: Mapping[str, TwinState]
    trained: Mapping[str, NDArray[np.int64]]

    @property
    def members(self) -> NDArray[np.int64]:
        """Positions of all images that any twin trained on."""
        return np.unique(np.concatenate(list(self.trained.values())))

    def accuracy(self, server: ServerState, most: int | None = None) -> float:
        """Return the accuracy of a server's model on test images of the classes so far."""
        task = self.setup.scenario.task_at(server.round - 1)
        return self.setup.evaluator.evaluate(
            server.weights, server.class_names, task, most
        ).accuracy


def run_observed(
    config: ExperimentConfig, data: ImageDataset, method: Method | None = None
) -> ObservedRun:
    """Run an experiment round by round on a data set or a part of it.

    Args:
        config: The experiment.
        data: Its images; all positions point into ``data.train``.
        method: Method to use instead of the configuration's.
    """
    scenario = plan_scenario(
        data.train.labels, data.sheet.class_names, config.scenario, config.hospitals, config.seed
    )
    setup = ExperimentSetup(
        config, data, scenario, Evaluator(data.test, scenario.tasks, config.network)
    )
    engine = SequentialEngine(setup.hospitals())
    proxy = ProxyServer(config.proxy)
    server = new_server(config.network, config.seed, config.federation.settle_rounds)
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
    return ObservedRun(setup, tuple(servers), tuple(records), dict(engine.states), trained)
