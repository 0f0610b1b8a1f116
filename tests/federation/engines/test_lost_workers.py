"""A worker process that dies: its twin is repeated once, then one clear error."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as validated

from federation.engines.processes import ProcessEngine, WorkerLostError
from federation.engines.sequential import SequentialEngine
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.engines.twin_states import StateFolder
from federation.methods.fedavg import FedAvg
from federation.server import ServerState, grow_for_new_classes, new_server
from incremental.network import IncrementalNetwork
from twin.batches import TrainingBatch
from twin.messages import TwinUpdate
from twin.objective import LocalContext, Terms

TWINS = ("north", "south")


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class DiesInTraining(FedAvg):
    """FedAvg in a worker that kills itself as often as there are files to take away."""

    folder: str = ""

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        for fuse in Path(self.folder).glob("fuse-*"):
            fuse.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().local_loss(network, batch, context)


@dataclass
class Grown:
    """An engine whose twins have observed, and the server that has grown for them."""

    engine: ProcessEngine
    server: ServerState

    def train(self, method: FedAvg) -> list[TwinUpdate]:
        broadcasts = {each: method.broadcast(self.server, None, each) for each in TWINS}
        return sorted(self.engine.train(method, broadcasts), key=lambda each: each.twin_id)


@pytest.fixture
def grown(tiny_hospitals: SimulatedHospitals, tmp_path: Path) -> Iterator[Grown]:
    engine = ProcessEngine(tiny_hospitals, StateFolder(tmp_path / "states"), 2, 1)
    try:
        server = new_server(tiny_hospitals.setting.network, 3)
        seen = sorted(engine.observe(server.model, TWINS), key=lambda each: each.twin_id)
        yield Grown(engine, grow_for_new_classes(server, seen)[0])
    finally:
        engine.close()


@pytest.fixture
def undisturbed(tiny_hospitals: SimulatedHospitals) -> dict[str, TwinUpdate]:
    engine, server = SequentialEngine(tiny_hospitals), new_server(tiny_hospitals.setting.network, 3)
    server, _ = grow_for_new_classes(server, list(engine.observe(server.model, TWINS)))
    broadcasts = {each: FedAvg().broadcast(server, None, each) for each in TWINS}
    return {each.twin_id: each for each in engine.train(FedAvg(), broadcasts)}


def fuses(folder: Path, count: int) -> DiesInTraining:
    for index in range(count):
        (folder / f"fuse-{index}").touch()
    return DiesInTraining(folder=str(folder))


def test_a_twin_whose_worker_was_killed_is_repeated_with_the_same_bits(
    grown: Grown, undisturbed: dict[str, TwinUpdate], tmp_path: Path
) -> None:
    updates = grown.train(fuses(tmp_path, 1))
    assert [each.twin_id for each in updates] == list(TWINS)
    for update in updates:
        for name, value in undisturbed[update.twin_id].weights.items():
            assert torch.equal(update.weights[name], value)
    assert not list((tmp_path).glob("fuse-*"))


def test_a_worker_that_dies_again_is_one_clear_error_and_the_states_stay(
    grown: Grown, undisturbed: dict[str, TwinUpdate], tmp_path: Path
) -> None:
    before = {each: grown.engine.states[each].last_round for each in TWINS}
    with pytest.raises(WorkerLostError, match=r"died twice in stage train .*--resume"):
        grown.train(fuses(tmp_path, 50))
    assert {each: grown.engine.states[each].model_round for each in TWINS} == dict.fromkeys(
        TWINS, -1
    )
    assert {each: grown.engine.states[each].last_round for each in TWINS} == before


def test_idle_workers_that_were_killed_are_replaced(
    grown: Grown, undisturbed: dict[str, TwinUpdate]
) -> None:
    import multiprocessing

    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    updates = grown.train(FedAvg())
    assert all(
        torch.equal(each.weights[name], value)
        for each in updates
        for name, value in undisturbed[each.twin_id].weights.items()
    )
