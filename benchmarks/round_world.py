"""The shrunk experiment of ``benchmarks.round``.

Its hospitals, and the states before the rounds that are timed.
"""

import argparse
import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np

from benchmarks.measuring import tell, use_threads
from benchmarks.reference_round import Stages
from benchmarks.watched import Watched, WatchedEngine
from federation.engines.choice import make_engine
from federation.engines.engine import TwinEngine
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.experiment.config import ExperimentConfig, load_experiment
from federation.experiment.setup import prepare_experiment
from federation.method import Method
from federation.methods.fedka import FedKA
from federation.round import RoundRecord, run_round
from federation.server import ServerState, new_server
from incremental.proxy import ProxyServer
from physical.planning import plan_scenario
from twin.state import TwinState

PAPER = Path(__file__).parent.parent / "hospital_configs" / "organa_paper"
ROUNDS_BEFORE = (
    5  # of the first task: more than ``settle_rounds``, so that what comes then is a new task
)
MIDDLE = 4  # the round of a task, from 0, that stands for its later ones


@dataclass(frozen=True)
class Snapshot:
    """Everything before a round, so that it can be run again and again."""

    server: ServerState
    proxy: ProxyServer
    states: Mapping[str, TwinState]


@dataclass
class Ran:
    """A round of ours that was run.

    Args:
        after: Where it ended.
        record: What happened.
        seconds: By stage.
        engine: What twins were told, and their states in between.
    """

    after: Snapshot
    record: RoundRecord
    seconds: Stages
    engine: WatchedEngine


@dataclass
class World:
    """The experiment on this machine.

    Args:
        config: The shrunk experiment.
        hospitals: Its hospitals.
        engine: Where our twins run.
        threads: Of the reference, and of ours in a sequential engine.
    """

    config: ExperimentConfig
    hospitals: SimulatedHospitals
    engine: TwinEngine
    threads: int

    def ours(self, before: Snapshot, method: Method | None = None) -> Ran:
        """Run one round of ours from a snapshot."""
        seconds: Stages = {}
        self.engine.states.clear()
        self.engine.states.update(before.states)
        use_threads(self.config.engine.threads)
        engine, proxy = WatchedEngine(self.engine, seconds), copy.copy(before.proxy)
        watched = Watched(method or self.config.method, ("score", "aggregate"), seconds)
        started = perf_counter()
        server, record = run_round(
            before.server, cast(Any, engine), cast(Method, watched), proxy, self.config.federation
        )
        seconds["all"] = perf_counter() - started
        use_threads(self.threads)
        assert len(record.accepted) == len(record.chosen), record.rejected
        return Ran(Snapshot(server, proxy, dict(self.engine.states)), record, seconds, engine)


def make_world(given: argparse.Namespace) -> World:
    """Return the experiment that the command line asks for."""
    config = load_experiment(PAPER, changes(given))
    hospitals = prepare_experiment(config).hospitals()
    return World(config, hospitals, make_engine(config.engine, hospitals), given.threads)


def changes(given: argparse.Namespace) -> list[str]:
    """Return what is set otherwise than in organa_paper."""
    joining = min(5, given.twins - 1)
    made = [
        f"scenario.images_per_class={given.images_per_class or 'null'}",
        f"scenario.rounds_per_task={ROUNDS_BEFORE}",
        "scenario.num_tasks=2",
        f"hospitals={{initial: {given.twins - joining}, join_per_task: {joining}}}",
        "twin.detection={rule: by_name, sample: 512}",
        "twin.watched=[{rule: entropy_jump, jump_fraction: 0.3641, reference_classes: 3}]",
        f"training.precision={given.precision}",
        f"training.epochs={given.epochs}",
        f"engine={{name: {given.engine}, threads: "
        f"{given.threads if given.engine == 'sequential' else 1}, workers: {given.threads}}}",
    ]
    return (
        made
        if given.full
        else [*made, "network.backbone=resnet10", "network.width=16", "network.image_size=28"]
    )


def snapshots(world: World) -> dict[str, Snapshot]:
    """Return the states before the second task's first and before its middle round.

    The way there is as short as it can be.
    """
    config = world.config
    brief = replace(config.training, epochs=1)
    hurried = make_engine(
        config.engine,
        replace(world.hospitals, setting=replace(world.hospitals.setting, training=brief)),
    )
    method = config.method
    assert isinstance(method, FedKA)
    assert method.reconstruction is not None
    method = replace(
        method, reconstruction=replace(method.reconstruction, perturb_steps=2, invert_steps=3)
    )
    other = World(config, world.hospitals, hurried, world.threads)
    at = Snapshot(
        new_server(config.network, config.seed, config.federation.settle_rounds),
        ProxyServer(config.proxy),
        {},
    )
    found: dict[str, Snapshot] = {}
    try:
        for number in range(ROUNDS_BEFORE + MIDDLE + 1):
            if number == ROUNDS_BEFORE:
                found["first of a task"] = at
            elif number == ROUNDS_BEFORE + MIDDLE:
                found["middle of a task"] = at
                break
            tell(f"  on the way there: round {number}")
            at = other.ours(at, method).after
    finally:
        hurried.close()
    return found


def growth_of_images(world: World) -> float:
    """Return how many times more images a second-task twin trains on in the whole protocol."""
    archive, config = world.hospitals.archive, world.config
    images = []
    for per_class in (config.scenario.images_per_class, None):
        whole = plan_scenario(
            archive.labels,
            archive.vocabulary,
            replace(config.scenario, images_per_class=per_class),
            config.hospitals,
            config.seed,
        )
        counts = []
        for plan in whole.hospitals.values():
            first, second = (
                sum(
                    len(each.positions)
                    for each in plan.arrivals
                    if whole.task_at(each.round) == task
                )
                for task in range(2)
            )
            counts.append(second + min(first, config.twin.memory_capacity))
        images.append(float(np.mean(counts)))
    return images[1] / images[0]
