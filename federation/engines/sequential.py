"""Where twins run: one after the other, the same with errors that say where, or in worker processes. Know no method and no metric.

A twin is a state, a hospital and the common setting, and is put together only while it works; between rounds its state rests in a mapping
(``federation.engines.twin_states``: on disk). So any worker can run any twin, and what an engine holds does not grow with the twins that exist.
Results do not depend on the engine: what is random is seeded by the messages, and the number of threads of one training is a setting.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol, runtime_checkable

import pydantic.dataclasses
import torch
from pydantic import ConfigDict

from federation.engines.processes import Listener, ProcessEngine
from federation.engines.simulated_hospitals import Hospitals, SimulatedHospitals
from federation.engines.twin_states import StateFolder
from incremental.cores import available_cores
from incremental.device import DeviceName
from incremental.network import looking_network
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate
from twin.objective import LocalObjective
from twin.state import TwinState

EngineName = Literal["auto", "sequential", "debug", "processes"]


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EngineConfig:
    """Where twins run.

    Args:
        name: ``sequential``; ``debug``: sequential, and errors carry twin, round and stage; ``processes``; ``auto``: ``processes`` where
            networks run on a CPU that has cores for several workers, else ``sequential``.
        threads: Threads of one training; it belongs to the result, as sums in another order differ in the last bit.
        workers: Most worker processes of ``processes``; none: as many as there are cores for. Workers x threads never exceeds the cores.
        device: Where networks run: ``auto``: on the GPU where torch can use one, else on the CPU. On a GPU the last digits are others.
    """

    name: EngineName = "sequential"
    threads: int = 1
    workers: int | None = None
    device: DeviceName = "auto"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}; allowed: 1 or more")
        if self.workers is not None and self.workers < 1:
            raise ValueError(
                f"workers is {self.workers}; allowed: 1 or more, or none for as many as there are cores for"
            )

    def num_workers(self, cores: int) -> int:
        """Return how many worker processes there are on this many cores; at least one, whatever the threads."""
        fitting = max(cores // self.threads, 1)
        return fitting if self.workers is None else min(self.workers, fitting)


@runtime_checkable
class TwinEngine(Protocol):
    """An engine whose twins' states can be taken out and put back."""

    @property
    def states(self) -> MutableMapping[str, TwinState]:
        """Where each twin that has looked stands."""
        ...

    def present(self, round_number: int) -> Sequence[str]:
        """Return who takes part in a round."""
        ...

    def observe(self, model: GlobalModel, twin_ids: Sequence[str]) -> Sequence[Observation]:
        """Let these twins look at their data."""
        ...

    def train(
        self, method: LocalObjective, broadcasts: Mapping[str, Broadcast]
    ) -> Sequence[TwinUpdate]:
        """Let these twins train."""
        ...

    def close(self) -> None:
        """Let go of what the engine holds."""
        ...


class SequentialEngine:
    """Twins one after the other in this process.

    Args:
        hospitals: Whose twins.
        states: Where their states rest; none: in a dictionary.
        listener: Told when a twin is done.
        explain: Add twin, round and stage to whatever is raised inside a twin (the debug engine).
    """

    def __init__(
        self,
        hospitals: Hospitals,
        states: MutableMapping[str, TwinState] | None = None,
        listener: Listener = lambda stage, twin_id: None,
        explain: bool = False,
    ) -> None:
        self._hospitals = hospitals
        self.states: MutableMapping[str, TwinState] = {} if states is None else states
        self._listener = listener
        self._explain = explain

    def present(self, round_number: int) -> Sequence[str]:
        """Return who takes part in a round."""
        return self._hospitals.present(round_number)

    def observe(self, model: GlobalModel, twin_ids: Sequence[str]) -> Sequence[Observation]:
        """Let these twins look at their data; the network is built once."""
        network = looking_network(
            self._hospitals.setting.network, model.weights, self._hospitals.device
        )
        observations = []
        for twin_id in twin_ids:
            with self._named(twin_id, model.round, "observe"):
                twin = self._hospitals.twin(twin_id, self.states.get(twin_id))
                observations.append(twin.observe(model, network))
                self.states[twin_id] = twin.state
            self._listener("observe", twin_id)
        return observations

    def train(
        self, method: LocalObjective, broadcasts: Mapping[str, Broadcast]
    ) -> Sequence[TwinUpdate]:
        """Let these twins train."""
        updates = []
        for twin_id, broadcast in broadcasts.items():
            with self._named(twin_id, broadcast.round, "train"):
                twin = self._hospitals.twin(twin_id, self.states.get(twin_id))
                updates.append(twin.train(broadcast, method))
                self.states[twin_id] = twin.state
            self._listener("train", twin_id)
        return updates

    def close(self) -> None:
        """Nothing is held."""

    @contextmanager
    def _named(self, twin_id: str, round_number: int, stage: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._explain:
                error.add_note(f"raised in twin {twin_id}, round {round_number}, stage {stage}")
            raise


def make_engine(
    config: EngineConfig,
    hospitals: SimulatedHospitals,
    states: StateFolder | None = None,
    listener: Listener = lambda stage, twin_id: None,
) -> TwinEngine:
    """Return the engine of a configuration; sets this process's threads.

    Args:
        config: Which, and how many threads and workers.
        hospitals: The hospitals.
        states: Where their states rest; none: nowhere that lasts longer than the engine.
        listener: Told when a twin is done.
    """
    torch.set_num_threads(config.threads)
    workers = config.num_workers(available_cores())
    if config.name == "processes" or (
        config.name == "auto" and workers > 1 and hospitals.device.type == "cpu"
    ):
        return ProcessEngine(hospitals, states, workers, config.threads, listener)
    return SequentialEngine(hospitals, states, listener, explain=config.name == "debug")
