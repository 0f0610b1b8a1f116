"""The reduced experiment of ``benchmarks.round``, and the states before the timed rounds."""

import argparse
import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np

from benchmarks.measuring import print_progress, use_threads
from benchmarks.reference_round import Stages
from benchmarks.timed_methods import TimedEngine, TimedMethods
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
# Rounds of the first task: more than ``settle_rounds``, so that new classes then form a new task.
ROUNDS_BEFORE = 5
MIDDLE = 4  # number, from 0, of the round that represents the later rounds of a task


@dataclass(frozen=True)
class Snapshot:
    """State before a round, from which it can be repeated."""

    server: ServerState
    proxy: ProxyServer
    states: Mapping[str, TwinState]


@dataclass
class FinishedRound:
    """A round that our side has run.

    Args:
        after: State after the round.
        record: Record of the round.
        seconds: Seconds by stage.
        engine: Engine with the broadcasts and the states after observing.
    """

    after: Snapshot
    record: RoundRecord
    seconds: Stages
    engine: TimedEngine


@dataclass
class World:
    """The experiment on this machine.

    Args:
        config: Configuration of the reduced experiment.
        hospitals: Its hospitals.
        engine: Engine of our twins.
        threads: Threads of the reference, and of ours with the sequential engine.
    """

    config: ExperimentConfig
    hospitals: SimulatedHospitals
    engine: TwinEngine
    threads: int

    def ours(self, before: Snapshot, method: Method | None = None) -> FinishedRound:
        """Run one round of ours from a snapshot."""
        seconds: Stages = {}
        self.engine.states.clear()
        self.engine.states.update(before.states)
        use_threads(self.config.engine.threads)
        engine, proxy = TimedEngine(self.engine, seconds), copy.copy(before.proxy)
        watched = TimedMethods(method or self.config.method, ("score", "aggregate"), seconds)
        started = perf_counter()
        server, record = run_round(
            before.server, cast(Any, engine), cast(Method, watched), proxy, self.config.federation
        )
        seconds["all"] = perf_counter() - started
        use_threads(self.threads)
        assert len(record.accepted) == len(record.chosen), record.rejected
        return FinishedRound(
            Snapshot(server, proxy, dict(self.engine.states)), record, seconds, engine
        )


def make_world(settings: argparse.Namespace) -> World:
    """Return the experiment that the command line selects."""
    config = load_experiment(PAPER, changes(settings))
    hospitals = prepare_experiment(config).hospitals()
    return World(config, hospitals, make_engine(config.engine, hospitals), settings.threads)


def changes(settings: argparse.Namespace) -> list[str]:
    """Return the changes to organa_paper."""
    joining = min(5, settings.twins - 1)
    threads = settings.threads if settings.engine == "sequential" else 1
    made = [
        f"scenario.images_per_class={settings.images_per_class or 'null'}",
        f"scenario.rounds_per_task={ROUNDS_BEFORE}",
        "scenario.num_tasks=2",
        f"hospitals={{initial: {settings.twins - joining}, join_per_task: {joining}}}",
        "twin.detection={rule: by_name, sample: 512}",
        "twin.watched=[{rule: entropy_jump, jump_fraction: 0.3641, reference_classes: 3}]",
        f"training.precision={settings.precision}",
        f"training.epochs={settings.epochs}",
        f"engine={{name: {settings.engine}, threads: {threads}, workers: {settings.threads}}}",
    ]
    return (
        made
        if settings.full
        else [*made, "network.backbone=resnet10", "network.width=16", "network.image_size=28"]
    )


def snapshots(world: World) -> dict[str, Snapshot]:
    """Return the states before the second task's first and middle round, with brief training."""
    config = world.config
    brief = replace(config.training, epochs=1)
    brief_engine = make_engine(
        config.engine,
        replace(world.hospitals, setting=replace(world.hospitals.setting, training=brief)),
    )
    method = config.method
    assert isinstance(method, FedKA)
    assert method.reconstruction is not None
    method = replace(
        method, reconstruction=replace(method.reconstruction, perturb_steps=2, invert_steps=3)
    )
    brief_world = World(config, world.hospitals, brief_engine, world.threads)
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
            print_progress(f"  on the way there: round {number}")
            at = brief_world.ours(at, method).after
    finally:
        brief_engine.close()
    return found


def growth_of_images(world: World) -> float:
    """Return the factor of images that a twin of the second task has in the full protocol."""
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
