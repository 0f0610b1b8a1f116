"""Twins in worker processes. Knows no method and no metric.

The archive is shared memory, a message's tensors are shared memory (``federation.engines.shared_memory``), and a worker reads and writes the state of
the twin it runs: through the pipes go names and numbers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
import torch.multiprocessing
from numpy.typing import NDArray

from federation.engines.shared_memory import SharedMessage, pack, unpack
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.engines.twin_states import StateFolder
from incremental.network import IncrementalNetwork, looking_network
from physical.batch import Batch
from physical.hospital import Arrival
from twin.config import TwinSetting
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate
from twin.objective import LocalObjective

Listener = Callable[[str, str], None]  # (stage, twin id), called when a twin is done
Answer = TypeVar("Answer")


class ProcessEngine:
    """Twins in worker processes.

    Args:
        hospitals: The hospitals.
        states: Where their states rest: on disk, where workers find them; none: in a temporary folder that goes with the engine.
        workers: How many processes.
        threads: Of each.
        listener: Told when a twin is done.
    """

    def __init__(
        self,
        hospitals: SimulatedHospitals,
        states: StateFolder | None,
        workers: int,
        threads: int,
        listener: Listener = lambda stage, twin_id: None,
    ) -> None:
        self._temporary: TemporaryDirectory[str] | None = None
        if states is None:
            self._temporary = TemporaryDirectory()
            states = StateFolder(Path(self._temporary.name))
        self.states = states
        self._hospitals = hospitals
        self._listener = listener
        self._num_messages = 0
        torch.multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]  # no file descriptor kept open
        context = torch.multiprocessing.get_context("spawn")
        self._pool = context.Pool(workers, _start_worker, (_share(hospitals), self.states, threads))

    def present(self, round_number: int) -> Sequence[str]:
        """Return who takes part in a round."""
        return self._hospitals.present(round_number)

    def observe(self, model: GlobalModel, twin_ids: Sequence[str]) -> Sequence[Observation]:
        """Let these twins look at their data."""
        jobs = self._jobs(twin_ids, model)
        return [
            observation
            for _, observation in self._collect(
                "observe", self._pool.imap(_observe_in_worker, jobs)
            )
        ]

    def train(
        self, method: LocalObjective, broadcasts: Mapping[str, Broadcast]
    ) -> Sequence[TwinUpdate]:
        """Let these twins train, several at a time."""
        longest_first = sorted(
            broadcasts, key=lambda twin_id: (-self._images(twin_id), twin_id)
        )  # so that no worker waits for one
        jobs = self._jobs(longest_first, (method, dict(broadcasts)))
        answers = dict(self._collect("train", self._pool.imap_unordered(_train_in_worker, jobs)))
        return [unpack(answers[twin_id]) for twin_id in broadcasts]

    def close(self) -> None:
        """End the workers."""
        self._pool.terminate()
        self._pool.join()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _images(self, twin_id: str) -> int:
        state = self.states.get(twin_id)
        return 0 if state is None else len(state.current) + len(state.memory)

    def _jobs(self, twin_ids: Sequence[str], message: Any) -> list["_Job"]:
        self._num_messages += 1
        parcel = pack(message)
        return [_Job(twin_id, self._num_messages, parcel) for twin_id in twin_ids]

    def _collect(
        self, stage: str, answers: Iterable[tuple[str, Answer]]
    ) -> Iterator[tuple[str, Answer]]:
        for twin_id, answer in answers:
            self.states.changed(twin_id)
            self._listener(stage, twin_id)
            yield twin_id, answer


@dataclass(frozen=True)
class _Job:
    """One twin's part of a stage; the message is the same for all twins of the stage."""

    twin_id: str
    number: int
    message: SharedMessage


@dataclass(frozen=True)
class _SharedHospitals:
    """The hospitals on their way to a worker: pixels as a shared tensor, all else as it is."""

    images: torch.Tensor
    labels: NDArray[np.int64]
    vocabulary: tuple[str, ...]
    arrivals: Mapping[str, Sequence[Arrival]]
    joins: Mapping[str, int]
    setting: TwinSetting
    device: torch.device

    def open(self) -> SimulatedHospitals:
        archive = Batch(self.images.numpy(), self.labels, self.vocabulary)
        return SimulatedHospitals(archive, self.arrivals, self.joins, self.setting, self.device)


def _share(hospitals: SimulatedHospitals) -> _SharedHospitals:
    images = torch.from_numpy(hospitals.archive.images).share_memory_()  # type: ignore[no-untyped-call]
    return _SharedHospitals(
        images,
        hospitals.archive.labels,
        hospitals.archive.vocabulary,
        hospitals.arrivals,
        hospitals.joins,
        hospitals.setting,
        hospitals.device,
    )


@dataclass
class _Worker:
    """What a worker process has: its own view of the hospitals and states, and the message of the stage under way."""

    hospitals: SimulatedHospitals
    states: StateFolder
    number: int = 0
    message: Any = None
    network: IncrementalNetwork | None = None

    def open(self, job: _Job) -> Any:
        """Return the message of a job, opened once for all of a stage's jobs."""
        if self.number != job.number:
            self.number, self.message, self.network = job.number, unpack(job.message), None
        return self.message


# Set once when a worker starts: the one global of the project, because a pool's tasks have no other place for it.
_worker: _Worker | None = None


def _start_worker(shared: _SharedHospitals, states: StateFolder, threads: int) -> None:
    global _worker  # noqa: PLW0603
    import signal

    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the parent's: it ends the round and the workers
    torch.multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]
    torch.set_num_threads(threads)
    _worker = _Worker(shared.open(), states)


def _observe_in_worker(job: _Job) -> tuple[str, Observation]:
    assert _worker is not None
    model: GlobalModel = _worker.open(job)
    if _worker.network is None:
        _worker.network = looking_network(
            _worker.hospitals.setting.network, model.weights, _worker.hospitals.device
        )
    twin = _worker.hospitals.twin(job.twin_id, _worker.states.get(job.twin_id))
    observation = twin.observe(model, _worker.network)
    _worker.states[job.twin_id] = twin.state
    return job.twin_id, observation


def _train_in_worker(job: _Job) -> tuple[str, SharedMessage]:
    assert _worker is not None
    method, broadcasts = _worker.open(job)
    twin = _worker.hospitals.twin(job.twin_id, _worker.states.get(job.twin_id))
    update = twin.train(broadcasts[job.twin_id], method)
    _worker.states[job.twin_id] = twin.state
    return job.twin_id, pack(update)
