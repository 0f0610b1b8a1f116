"""Choice of the engine: configuration, and the engine that it names."""

from typing import Literal

import pydantic.dataclasses
import torch
from pydantic import ConfigDict

from federation.engines.engine import TwinDone, TwinEngine, ignore_twin_done
from federation.engines.processes import ProcessEngine
from federation.engines.sequential import SequentialEngine
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.engines.twin_states import StateFolder
from incremental.cores import available_cores
from incremental.device import DeviceName

EngineName = Literal["auto", "sequential", "debug", "processes"]


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EngineConfig:
    """Where twins run.

    Args:
        name: ``sequential``; ``debug``: sequential, and errors carry twin, round and stage;
            ``processes``; ``auto``: ``processes`` where networks run on a CPU that has cores for
            several workers, else ``sequential``.
        threads: Threads of one training. It belongs to the result: sums in another order differ in
            the last bit.
        workers: Most worker processes of ``processes``; none: as many as there are cores for.
            Workers x threads never exceeds the cores.
        device: Where networks run: ``auto``: on the GPU where torch can use one, else on the CPU.
            On a GPU the last digits differ.
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
                f"workers is {self.workers}; allowed: 1 or more, or none for as many as there are "
                "cores for"
            )

    def num_workers(self, cores: int) -> int:
        """Return how many worker processes fit on this many cores; at least one."""
        fitting = max(cores // self.threads, 1)
        return fitting if self.workers is None else min(self.workers, fitting)


def make_engine(
    config: EngineConfig,
    hospitals: SimulatedHospitals,
    states: StateFolder | None = None,
    twin_done: TwinDone = ignore_twin_done,
) -> TwinEngine:
    """Return the engine of a configuration; sets this process's threads.

    Args:
        config: Which engine, and how many threads and workers.
        hospitals: The hospitals of the twins.
        states: Where the twins' states rest; none: nowhere that lasts longer than the engine.
        twin_done: Called when a twin is done.
    """
    torch.set_num_threads(config.threads)
    workers = config.num_workers(available_cores())
    on_cores = config.name == "auto" and workers > 1 and hospitals.device.type == "cpu"
    if config.name == "processes" or on_cores:
        return ProcessEngine(hospitals, states, workers, config.threads, twin_done)
    return SequentialEngine(hospitals, states, twin_done, explain=config.name == "debug")
