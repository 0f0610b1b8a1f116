"""Process engine: twins in worker processes of this machine.

The archive and the tensors of messages are shared memory (``federation.engines.shared_memory``),
and a worker reads the state of the twin that it runs; names and numbers go through the pipes.
A worker that dies (killed, out of memory) is noticed at once: its twin runs once more in a new
worker. A worker never replaces a twin's state: it writes the new state beside the old one and the
parent puts it in place with the answer, so that a twin which is repeated starts from the state it
had.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
import torch.multiprocessing
from numpy.typing import NDArray

from federation.engines.engine import TwinDone, ignore_twin_done
from federation.engines.shared_memory import (
    SharedMessage,
    pack,
    shared,
    unpack,
    use_file_system_sharing,
)
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.engines.twin_states import StagedState, StateFolder
from incremental.network import IncrementalNetwork, frozen_network
from physical.batch import Batch
from physical.hospital import Arrival
from twin.config import TwinSetting
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate
from twin.objective import LocalObjective

Answer = TypeVar("Answer")


class WorkerLostError(RuntimeError):
    """A twin's worker process died twice: which twin, in which stage, what to do."""


class ProcessEngine:
    """Twins in worker processes.

    Args:
        hospitals: The hospitals of the twins.
        states: Where the twins' states rest: on disk, where workers find them; none: in a temporary
            folder that goes with the engine.
        workers: How many processes.
        threads: Threads of each.
        twin_done: Called when a twin is done.
    """

    def __init__(
        self,
        hospitals: SimulatedHospitals,
        states: StateFolder | None,
        workers: int,
        threads: int,
        twin_done: TwinDone = ignore_twin_done,
    ) -> None:
        self._temporary: TemporaryDirectory[str] | None = None
        if states is None:
            self._temporary = TemporaryDirectory()
            states = StateFolder(Path(self._temporary.name))
        self.states = states
        self._hospitals = hospitals
        self._twin_done = twin_done
        self._workers = workers
        self._num_messages = 0
        use_file_system_sharing()
        self._start = (_share(hospitals), states, threads)
        self._pool = self._new_pool()

    def present(self, round_number: int) -> Sequence[str]:
        """Return the twins that take part in a round."""
        return self._hospitals.present(round_number)

    def observe(self, model: GlobalModel, twin_ids: Sequence[str]) -> Iterator[Observation]:
        """Let these twins observe their data, several at a time; answers come as they are done."""
        yield from self._run("observe", _observe_in_worker, twin_ids, model)

    def train(
        self, method: LocalObjective, broadcasts: Mapping[str, Broadcast]
    ) -> Iterator[TwinUpdate]:
        """Let these twins train, several at a time; answers come as they are done."""
        # The longest first, so that no worker waits for one at the end.
        longest_first = sorted(broadcasts, key=lambda twin_id: (-self._images(twin_id), twin_id))
        message = (method, dict(broadcasts))
        for answer in self._run("train", _train_in_worker, longest_first, message):
            yield unpack(answer)

    def close(self) -> None:
        """End the workers, also those that are at work."""
        self._end_pool()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _images(self, twin_id: str) -> int:
        state = self.states.get(twin_id)
        return 0 if state is None else len(state.current) + len(state.memory)

    def _run(
        self,
        stage: str,
        work: Callable[["_Job"], tuple[StagedState, Answer]],
        twin_ids: Sequence[str],
        message: Any,
    ) -> Iterator[Answer]:
        """Give each twin to a worker, at most one twin a worker, and yield answers as they come."""
        self._num_messages += 1
        packed = pack(message)
        waiting = [_Job(twin_id, self._num_messages, packed) for twin_id in reversed(twin_ids)]
        running: dict[Future[tuple[StagedState, Answer]], _Job] = {}
        lost: set[str] = set()
        try:
            while waiting or running:
                # A twin whose worker died runs alone, so that it is known who dies again.
                alone = any(job.twin_id in lost for job in running.values())
                while waiting and not alone and len(running) < self._workers:
                    alone = waiting[-1].twin_id in lost
                    if alone and running:
                        break
                    job = waiting.pop()
                    running[self._submit(work, job)] = job
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    job = running.pop(future)
                    try:
                        staged, answer = future.result()
                    except BrokenProcessPool:
                        victims = [job, *running.values()]
                        running.clear()
                        self._replace_pool(stage, victims, lost)
                        waiting.extend(victims)
                        break
                    self.states.put_in_place(staged)
                    self._twin_done(stage, job.twin_id)
                    yield answer
        finally:
            for future in running:
                future.cancel()

    def _submit(
        self, work: Callable[["_Job"], tuple[StagedState, Answer]], job: "_Job"
    ) -> Future[tuple[StagedState, Answer]]:
        try:
            return self._pool.submit(work, job)
        except BrokenProcessPool as error:  # a worker died while none was at work
            broken: Future[tuple[StagedState, Answer]] = Future()
            broken.set_exception(error)
            return broken

    def _replace_pool(self, stage: str, victims: Sequence["_Job"], lost: set[str]) -> None:
        """Start new workers, unless a twin's worker has died for the second time."""
        self._end_pool()
        again = sorted({job.twin_id for job in victims} & lost)
        if again:
            raise WorkerLostError(
                f"the worker process of twin {again[0]} died twice in stage {stage} without an "
                "answer (killed from outside, or out of memory); nothing is lost: go on with "
                "--resume, with fewer workers (--set engine.workers=1) if memory was short"
            )
        lost.update(job.twin_id for job in victims)
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        context = torch.multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, context, _start_worker, self._start)

    def _end_pool(self) -> None:
        workers = _processes_of(self._pool)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def _processes_of(pool: ProcessPoolExecutor) -> list[multiprocessing.Process]:
    """Return the workers of a pool: before Python 3.14 nothing public ends one that is at work."""
    return list((getattr(pool, "_processes", None) or {}).values())


@dataclass(frozen=True)
class _Job:
    """One twin's part of a stage; the message is the same for all twins of the stage."""

    twin_id: str
    number: int
    message: SharedMessage


@dataclass(frozen=True)
class _SharedHospitals:
    """The hospitals on their way to a worker, their pixels as a shared tensor."""

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
    archive = hospitals.archive
    images = shared(torch.from_numpy(archive.images))
    return _SharedHospitals(
        images,
        archive.labels,
        archive.vocabulary,
        hospitals.arrivals,
        hospitals.joins,
        hospitals.setting,
        hospitals.device,
    )


@dataclass
class _Worker:
    """What a worker process has: its view of hospitals and states, and the stage's message."""

    hospitals: SimulatedHospitals
    states: StateFolder
    number: int = 0
    message: Any = None
    network: IncrementalNetwork | None = None

    def open(self, job: _Job) -> Any:
        """Return the message of a job, opened once for all jobs of a stage."""
        if self.number != job.number:
            self.number, self.message, self.network = job.number, unpack(job.message), None
        return self.message


# Set when a worker starts. The one global: a pool's tasks have no other place for it.
_worker: _Worker | None = None


def _start_worker(hospitals: _SharedHospitals, states: StateFolder, threads: int) -> None:
    global _worker  # noqa: PLW0603
    # Ctrl-C is for the parent, which ends the round and the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    use_file_system_sharing()
    torch.set_num_threads(threads)
    _worker = _Worker(hospitals.open(), states)


def _observe_in_worker(job: _Job) -> tuple[StagedState, Observation]:
    assert _worker is not None
    model: GlobalModel = _worker.open(job)
    hospitals = _worker.hospitals
    if _worker.network is None:
        network = hospitals.setting.network
        _worker.network = frozen_network(network, model.weights, hospitals.device)
    twin = hospitals.twin(job.twin_id, _worker.states.get(job.twin_id))
    observation = twin.observe(model, _worker.network)
    return _worker.states.stage(job.twin_id, twin.state), observation


def _train_in_worker(job: _Job) -> tuple[StagedState, SharedMessage]:
    assert _worker is not None
    method, broadcasts = _worker.open(job)
    twin = _worker.hospitals.twin(job.twin_id, _worker.states.get(job.twin_id))
    update = twin.train(broadcasts[job.twin_id], method)
    return _worker.states.stage(job.twin_id, twin.state), pack(update)
