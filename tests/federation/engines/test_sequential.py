from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from federation.engines.choice import EngineConfig, make_engine
from federation.engines.engine import TwinEngine
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.engines.twin_states import StateFolder
from federation.methods.fedavg import FedAvg
from federation.server import grow_for_new_classes, new_server
from incremental.cores import available_cores


@pytest.mark.parametrize(
    ("workers", "threads", "cores", "expected"),
    [
        (None, 1, 8, 8),
        (None, 2, 8, 4),
        (None, 3, 8, 2),
        (None, 16, 8, 1),
        (2, 1, 8, 2),
        (9, 1, 8, 8),
        (3, 2, 4, 2),
        (2, 1, 1, 1),
    ],
)
def test_workers_times_threads_never_exceeds_the_cores(
    workers: int | None, threads: int, cores: int, expected: int
) -> None:
    assert EngineConfig(workers=workers, threads=threads).num_workers(cores) == expected


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"threads": 0}, {"worker": 1}])
def test_an_engine_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EngineConfig(**wrong)


def test_this_process_may_use_a_core() -> None:
    assert available_cores() >= 1


@pytest.mark.parametrize(
    ("cores", "threads", "device", "processes"),
    [(4, 1, "cpu", 4), (4, 2, "cpu", 2), (1, 1, "cpu", 0), (4, 4, "cpu", 0), (4, 1, "cuda", 0)],
)
def test_auto_takes_worker_processes_where_a_cpu_has_cores_for_several(
    tiny_hospitals: SimulatedHospitals,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    threads: int,
    device: Any,
    processes: int,
) -> None:
    made = []
    monkeypatch.setattr("federation.engines.choice.available_cores", lambda: cores)
    monkeypatch.setattr(
        "federation.engines.choice.ProcessEngine",
        lambda hospitals, states, workers, *rest: made.append(workers),
    )
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)
    make_engine(
        EngineConfig(name="auto", threads=threads),
        replace(tiny_hospitals, device=torch.device(device)),
    )
    assert made == [processes] * bool(processes)


@pytest.mark.parametrize("name", ["sequential", "debug", "processes"])
def test_an_engine_asks_those_it_is_told_to_and_leaves_their_states_on_the_disk(
    tiny_hospitals: SimulatedHospitals, tmp_path: Path, name: Any
) -> None:
    done = []
    engine = make_engine(
        EngineConfig(name=name, workers=2),
        tiny_hospitals,
        StateFolder(tmp_path),
        lambda *what: done.append(what),
    )
    try:
        assert isinstance(engine, TwinEngine)
        server = new_server(tiny_hospitals.setting.network, 3, settle_rounds=0)
        assert list(engine.present(0)) == ["north", "south"]
        observations = list(engine.observe(server.model, ("south",)))
        assert [each.twin_id for each in observations] == ["south"]
        assert list(StateFolder(tmp_path)) == ["south"]
        server, _ = grow_for_new_classes(server, observations)
        (update,) = engine.train(FedAvg(), {"south": FedAvg().broadcast(server, None, "south")})
        assert update.weights.keys() == server.weights.keys()
        assert StateFolder(tmp_path)["south"].model_round == 0
        assert done == [("observe", "south"), ("train", "south")]
    finally:
        engine.close()
