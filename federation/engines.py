"""Where twins run: one after the other, the same with errors that say where, or in worker processes. Know no method and no metric.

An engine holds the twins' states between rounds; a twin is a state, a hospital and the common setting, and is put together only while it
works.
So any worker can run any twin, and a checkpoint is the states. Results do not depend on the engine: what is random is seeded by the
messages, and the number of threads of one training is a setting.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import pydantic.dataclasses
import torch
import torch.multiprocessing
from numpy.typing import NDArray
from pydantic import ConfigDict

from incremental.network import IncrementalNetwork, build_network
from physical.batch import Batch
from physical.hospital import Arrival, Hospital
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate
from twin.objective import LocalObjective
from twin.state import TwinState
from twin.twin import DigitalTwin, TwinSetting

Listener = Callable[[str, str], None]  # (stage, twin id), called when a twin is done
Answer = TypeVar("Answer")
EngineName = Literal["sequential", "debug", "processes"]


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EngineConfig:
    """Where twins run.

    Args:
        name: ``sequential``; ``debug``: sequential, and errors carry twin, round and stage; ``processes``.
        threads: Threads of one training; it belongs to the result, as sums in another order differ in the last bit.
        workers: Worker processes of ``processes``; workers x threads should not exceed the cores.
    """

    name: EngineName = "sequential"
    threads: int = 1
    workers: int = 2

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("threads", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 or more")


@dataclass(frozen=True)
class Ward:
    """All hospitals of a simulation: one archive of images, and who gets which of them when.

    Args:
        archive: Training images; hospitals refer to it and never copy.
        arrivals: Of each hospital, in the order of the twins.
        joins: First round of each hospital.
        setting: What all twins share.
    """

    archive: Batch
    arrivals: Mapping[str, tuple[Arrival, ...]]
    joins: Mapping[str, int]
    setting: TwinSetting

    def twin(self, twin_id: str, state: TwinState | None) -> DigitalTwin:
        """Put one twin together."""
        hospital = Hospital(twin_id, self.archive, self.arrivals[twin_id], self.joins[twin_id])
        return DigitalTwin(hospital, self.setting, state)

    def present(self, round_number: int) -> list[str]:
        """Return who takes part in a round."""
        return [twin_id for twin_id, joins in self.joins.items() if joins <= round_number]


@runtime_checkable
class TwinEngine(Protocol):
    """An engine whose twins' states can be taken out and put back."""

    ward: Ward
    states: dict[str, TwinState]

    def observe(self, model: GlobalModel) -> Sequence[Observation]:
        """Let every twin that takes part look at its data."""
        ...

    def train(self, method: LocalObjective, broadcasts: Mapping[str, Broadcast]) -> Sequence[TwinUpdate]:
        """Let these twins train."""
        ...

    def close(self) -> None:
        """Let go of what the engine holds."""
        ...


class SequentialEngine:
    """Twins one after the other in this process.

    Args:
        ward: The hospitals.
        listener: Told when a twin is done.
        explain: Add twin, round and stage to whatever is raised inside a twin (the debug engine).
    """

    def __init__(self, ward: Ward, listener: Listener = lambda stage, twin_id: None, explain: bool = False) -> None:
        self.ward = ward
        self.states: dict[str, TwinState] = {}
        self._listener = listener
        self._explain = explain

    def observe(self, model: GlobalModel) -> Sequence[Observation]:
        """Let every twin that takes part look at its data; the network is built once."""
        network = build_network(self.ward.setting.network, model.weights)
        observations = []
        for twin_id in self.ward.present(model.round):
            with self._named(twin_id, model.round, "observe"):
                twin = self.ward.twin(twin_id, self.states.get(twin_id))
                observations.append(twin.observe(model, network))
                self.states[twin_id] = twin.state
            self._listener("observe", twin_id)
        return observations

    def train(self, method: LocalObjective, broadcasts: Mapping[str, Broadcast]) -> Sequence[TwinUpdate]:
        """Let these twins train."""
        updates = []
        for twin_id, broadcast in broadcasts.items():
            with self._named(twin_id, broadcast.round, "train"):
                twin = self.ward.twin(twin_id, self.states.get(twin_id))
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


class ProcessEngine:
    """Twins in worker processes. The archive is shared memory; states and messages travel.

    Args:
        ward: The hospitals.
        config: Workers, and threads of each.
        listener: Told when a twin is done.
    """

    def __init__(self, ward: Ward, config: EngineConfig, listener: Listener = lambda stage, twin_id: None) -> None:
        self.ward = ward
        self.states: dict[str, TwinState] = {}
        self._listener = listener
        # One file per tensor in shared memory instead of one file descriptor: messages have hundreds of tensors.
        torch.multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]
        context = torch.multiprocessing.get_context("spawn")
        self._pool = context.Pool(config.workers, _start_worker, (_share(ward), config.threads))

    def observe(self, model: GlobalModel) -> Sequence[Observation]:
        """Let every twin that takes part look at its data."""
        jobs = [(twin_id, self.states.get(twin_id), model) for twin_id in self.ward.present(model.round)]
        return list(self._collect("observe", self._pool.imap(_observe_in_worker, jobs)))

    def train(self, method: LocalObjective, broadcasts: Mapping[str, Broadcast]) -> Sequence[TwinUpdate]:
        """Let these twins train, several at a time."""
        longest_first = sorted(broadcasts, key=lambda twin_id: (-self._images(twin_id), twin_id))  # so that no worker waits for one
        jobs = [(twin_id, self.states.get(twin_id), broadcasts[twin_id], method) for twin_id in longest_first]
        updates = {each.twin_id: each for each in self._collect("train", self._pool.imap_unordered(_train_in_worker, jobs))}
        return [updates[twin_id] for twin_id in broadcasts]

    def _images(self, twin_id: str) -> int:
        state = self.states.get(twin_id)
        return 0 if state is None else len(state.current) + len(state.memory)

    def close(self) -> None:
        """End the workers."""
        self._pool.terminate()
        self._pool.join()

    def _collect(self, stage: str, answers: Iterable[tuple[str, TwinState, Answer]]) -> Iterator[Answer]:
        for twin_id, state, answer in answers:
            self.states[twin_id] = state
            self._listener(stage, twin_id)
            yield answer


@dataclass(frozen=True)
class _SharedWard:
    """The hospitals on their way to a worker: pixels as a shared tensor, all else as it is."""

    images: torch.Tensor
    labels: NDArray[np.int64]
    vocabulary: tuple[str, ...]
    arrivals: Mapping[str, tuple[Arrival, ...]]
    joins: Mapping[str, int]
    setting: TwinSetting

    def open(self) -> Ward:
        archive = Batch(self.images.numpy(), self.labels, self.vocabulary)
        return Ward(archive, self.arrivals, self.joins, self.setting)


def _share(ward: Ward) -> _SharedWard:
    images = torch.from_numpy(ward.archive.images).share_memory_()  # type: ignore[no-untyped-call]
    return _SharedWard(images, ward.archive.labels, ward.archive.vocabulary, ward.arrivals, ward.joins, ward.setting)


# A worker's own hospitals, set once when it starts: the one global of the project, because a pool's tasks have no other place for it.
_ward: Ward | None = None
_network: tuple[int, IncrementalNetwork] | None = None


def _start_worker(shared: _SharedWard, threads: int) -> None:
    global _ward  # noqa: PLW0603
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends the round and the workers
    torch.multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]
    torch.set_num_threads(threads)
    _ward = shared.open()


def _observe_in_worker(job: tuple[str, TwinState | None, GlobalModel]) -> tuple[str, TwinState, Observation]:
    global _network  # noqa: PLW0603
    twin_id, state, model = job
    assert _ward is not None
    if _network is None or _network[0] != model.round:
        _network = (model.round, build_network(_ward.setting.network, model.weights))
    twin = _ward.twin(twin_id, state)
    observation = twin.observe(model, _network[1])
    return twin_id, twin.state, observation


def _train_in_worker(
    job: tuple[str, TwinState | None, Broadcast, LocalObjective],
) -> tuple[str, TwinState, TwinUpdate]:
    twin_id, state, broadcast, method = job
    assert _ward is not None
    twin = _ward.twin(twin_id, state)
    update = twin.train(broadcast, method)
    return twin_id, twin.state, update


def make_engine(config: EngineConfig, ward: Ward, listener: Listener = lambda stage, twin_id: None) -> TwinEngine:
    """Return the engine of a configuration; sets this process's threads."""
    torch.set_num_threads(config.threads)
    if config.name == "processes":
        return ProcessEngine(ward, config, listener)
    return SequentialEngine(ward, listener, explain=config.name == "debug")
