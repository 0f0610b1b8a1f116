"""A whole round of organa_paper's protocol: ours against the plain reference, and the proxy server's share of a task's time.

``python -m benchmarks.round`` (thin network) or ``--full``. Two rounds are timed: the first of the second task (new classes arrive, twins
archive, a teacher appears) and its fifth, which stands for the other nine. Both sides start from the same state: same images, same chosen
twins, same weights, same batch size, same losses, same prototypes to invert.

What is shrunk: images per class (``--images-per-class``), so that the reference ends today; what that does to the ratios is estimated in
the lines "all images": time to look and to train grows with the images, time for prototypes and proxy server does not. What is changed so
that the rounds do not hang on luck: twins follow the rule ``by_name`` and *watch* the paper's rule, so every entropy of the paper's rule
is computed, but the head grows in the same round however little a few steps have taught the model.
"""

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import alternately, parser, table, tell, use_threads
from benchmarks.reference import PlainNetwork, PlainTask
from benchmarks.reference_round import Archived, PlainRules, PlainTwin, Search, Stages, invert_plainly, plain_round
from federation.config import ExperimentConfig, load_experiment
from federation.engines import SequentialEngine, TwinEngine, make_engine
from federation.method import Method
from federation.methods.fedka import FedKA
from federation.round import RoundRecord, run_round
from federation.server import ServerState, new_server
from federation.study import prepare_study
from federation.ward import Ward
from incremental.network import IncrementalNetwork, build_network
from incremental.proxy import ProxyServer
from incremental.reconstruction import GradientEncoder, invert
from physical.planning import plan_scenario
from twin.messages import Broadcast, GlobalModel
from twin.state import TwinState

PAPER = Path(__file__).parent.parent / "hospital_configs" / "organa_paper"
STAGES = ("observe", "score", "train", "prototypes", "aggregate")
ROUNDS_BEFORE = 5  # of the first task: more than ``settle_rounds``, so that what comes then is a new task
MIDDLE = 4  # the round of a task, from 0, that stands for its later ones
ROUNDS_PER_TASK = 10  # of the protocol, for the sum over a task


class Watched:
    """An object some of whose methods are timed.

    Args:
        inner: The object.
        names: The methods.
        seconds: Where their seconds are added.
    """

    def __init__(self, inner: object, names: Sequence[str], seconds: Stages) -> None:
        self.inner, self._names, self._seconds = inner, names, seconds

    def __getattr__(self, name: str) -> Any:
        """Return the inner object's attribute, timed where asked for."""
        value = getattr(self.inner, name)
        if name not in self._names:
            return value

        def timed(*args: Any) -> Any:
            started = perf_counter()
            result = value(*args)
            self._seconds[name] = self._seconds.get(name, 0.0) + perf_counter() - started
            return result

        return timed


class WatchedEngine:
    """An engine whose two verbs are timed, and which remembers what it was told.

    Args:
        inner: The engine.
        seconds: Where seconds are added.
    """

    def __init__(self, inner: TwinEngine, seconds: Stages) -> None:
        self.inner, self._seconds = inner, seconds
        self.after_observing: dict[str, TwinState] = {}
        self.broadcasts: Mapping[str, Broadcast] = {}

    def present(self, round_number: int) -> Sequence[str]:
        """Return who takes part."""
        return self.inner.present(round_number)

    def observe(self, model: GlobalModel, twin_ids: Sequence[str]) -> Any:
        """Let these twins look."""
        started = perf_counter()
        observations = self.inner.observe(model, twin_ids)
        self._seconds["observe"] = perf_counter() - started
        self.after_observing = dict(self.inner.states)
        return observations

    def train(self, method: Any, broadcasts: Mapping[str, Broadcast]) -> Any:
        """Let these twins train; the prototypes that they make at the end are timed by themselves."""
        self.broadcasts = broadcasts
        objective, own = method.inner, {"finish_local": 0.0}
        if isinstance(self.inner, SequentialEngine):  # into a worker process no clock can be sent
            objective = Watched(objective, ("finish_local",), own)
        started = perf_counter()
        updates = self.inner.train(objective, broadcasts)
        self._seconds["prototypes"] = own["finish_local"]
        self._seconds["train"] = perf_counter() - started - own["finish_local"]
        return updates


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
        ward: Its hospitals.
        engine: Where our twins run.
        threads: Of the reference, and of ours in a sequential engine.
    """

    config: ExperimentConfig
    ward: Ward
    engine: TwinEngine
    threads: int
    totals: dict[str, dict[str, list[Stages]]] = field(default_factory=dict)

    def ours(self, before: Snapshot, method: Method | None = None) -> Ran:
        """Run one round of ours from a snapshot."""
        seconds: Stages = {}
        self.engine.states.clear()
        self.engine.states.update(before.states)
        use_threads(self.config.engine.threads)
        engine, proxy = WatchedEngine(self.engine, seconds), copy.copy(before.proxy)
        watched = Watched(method or self.config.method, ("score", "aggregate"), seconds)
        started = perf_counter()
        server, record = run_round(before.server, cast(Any, engine), cast(Method, watched), proxy, self.config.federation)
        seconds["all"] = perf_counter() - started
        use_threads(self.threads)
        assert len(record.accepted) == len(record.chosen), record.rejected
        return Ran(Snapshot(server, proxy, dict(self.engine.states)), record, seconds, engine)


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
        f"engine={{name: {given.engine}, threads: {given.threads if given.engine == 'sequential' else 1}, workers: {given.threads}}}",
    ]
    return made if given.full else [*made, "network.backbone=resnet10", "network.width=16", "network.image_size=28"]


def snapshots(world: World) -> dict[str, Snapshot]:
    """Return the states before the second task's first and before its middle round; the way there is as short as it can be."""
    config = world.config
    brief = replace(config.training, epochs=1)
    hurried = make_engine(config.engine, replace(world.ward, setting=replace(world.ward.setting, training=brief)))
    method = config.method
    assert isinstance(method, FedKA)
    assert method.reconstruction is not None
    method = replace(method, reconstruction=replace(method.reconstruction, perturb_steps=2, invert_steps=3))
    other = World(config, world.ward, hurried, world.threads)
    at = Snapshot(new_server(config.network, config.seed), ProxyServer(config.proxy), {})
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


def plain_side(world: World, before: Snapshot, ran: Ran, search: Search, invert_steps: int) -> tuple[Any, ...]:
    """Return what the reference needs to run the round that ours ran."""
    method, config = cast(FedKA, world.config.method), world.config
    assert method.reconstruction is not None
    broadcasts = ran.engine.broadcasts
    names = next(iter(broadcasts.values())).class_names
    twins, order = [], list(ran.engine.after_observing)
    for twin_id in order:
        earlier, state = before.states.get(twin_id), ran.engine.after_observing[twin_id]
        twins.append(_plain_twin(world.ward, earlier, state, names, method))
    first = next(iter(broadcasts.values()))
    rate = config.training.learning_rate
    rules = PlainRules(
        config.network,
        config.training.epochs,
        config.training.batch_size,
        rate,
        method.reconstruction.perturb_steps,
        method.reconstruction.perturb_rate,
        invert_steps or (250 if search == "lbfgs" else method.reconstruction.invert_steps),
        method.reconstruction.public_seed,
        method.reconstruction.stop_below,
        search,
    )
    judged = None
    if "prototype_images" in before.server.kept:
        judged = (before.server.kept["prototype_images"], before.server.kept["prototype_rows"])
    teacher = None if first.old_model is None else _plain_network(config, first.old_model.weights)
    return (
        _plain_network(config, before.server.weights),
        _plain_network(config, first.weights),
        teacher,
        twins,
        [order.index(twin_id) for twin_id in broadcasts],
        judged,
        rules,
    )


def _plain_network(config: ExperimentConfig, weights: Mapping[str, Tensor]) -> PlainNetwork:
    network: IncrementalNetwork = build_network(config.network, dict(weights))
    return PlainNetwork(network)


def _plain_twin(ward: Ward, earlier: TwinState | None, state: TwinState, names: tuple[str, ...], method: FedKA) -> PlainTwin:
    archive = ward.archive
    row = np.array([names.index(name) if name in names else -1 for name in archive.vocabulary])
    exemplars = state.memory.all_positions()
    finished = [tuple(names.index(name) for name in group if name not in state.current_names) for group in state.finished]
    groups = (*finished, tuple(names.index(name) for name in state.current_names))
    archived = []
    if earlier is not None and len(state.finished) > len(earlier.finished):
        room = state.memory.per_class(len(state.memory.positions))
        for name in earlier.current_names:
            own = earlier.current[archive.labels[earlier.current] == archive.vocabulary.index(name)]
            archived.append(Archived(archive.images[own], room))
    return PlainTwin(
        archive.images[state.current],
        row[archive.labels[state.current]],
        archive.images[exemplars],
        row[archive.labels[exemplars]],
        PlainTask(groups, method.classification_weight, method.semantic_weight, method.attention_weight),
        archived,
        state.fresh_task,
    )


def growth_of_images(config: ExperimentConfig, shrunk: World) -> float:
    """Return how many times more images a twin of the second task trains on in the whole protocol than here (estimate)."""
    archive, scenario = shrunk.ward.archive, config.scenario
    images = []
    for per_class in (scenario.images_per_class, None):
        whole = plan_scenario(
            archive.labels, archive.vocabulary, replace(scenario, images_per_class=per_class), config.hospitals, config.seed
        )
        counts = []
        for plan in whole.hospitals.values():
            first, second = (sum(len(each.positions) for each in plan.arrivals if whole.task_at(each.round) == task) for task in range(2))
            counts.append(second + min(first, config.twin.memory_capacity))
        images.append(float(np.mean(counts)))
    return images[1] / images[0]


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    given = _options(arguments)
    use_threads(given.threads)
    config = load_experiment(PAPER, changes(given))
    study = prepare_study(config)
    world = World(config, study.ward(), make_engine(config.engine, study.ward()), given.threads)
    rounds: dict[str, dict[str, Stages]] = {}
    facts = []
    try:
        for name, before in snapshots(world).items():
            ours, plain, about = _time_round(world, name, before, given)
            rounds[name] = {"ours": ours, "reference": plain}
            facts.append(about)
    finally:
        world.engine.close()
    print(
        f"Network {config.network.backbone} w{config.network.width}, {config.network.image_size} px; {given.images_per_class or 'all'} "
        f"images per class; {given.epochs} epochs, batch {config.training.batch_size}; ours in {given.precision}, engine "
        f"{given.engine}; {given.threads} threads; {given.repeats} turns, medians; the reference inverts with {given.search}.\n"
    )
    print("\n".join(facts) + "\n")
    print(_stage_table(rounds) + "\n")
    print(_task_table(rounds, growth_of_images(config, world)))
    if given.inversions:
        print("\n" + inversion_table(config))


def _time_round(world: World, name: str, before: Snapshot, given: argparse.Namespace) -> tuple[Stages, Stages, str]:
    tell(f"round: {name}")
    ran = world.ours(before)  # warms up, and says what the reference must do
    side = plain_side(world, before, ran, given.search, given.invert_steps)
    times: dict[str, list[Stages]] = {"ours": [], "reference": []}
    for turn in range(given.repeats):
        times["ours"].append(world.ours(before).seconds)
        tell(f"  turn {turn + 1}/{given.repeats}, ours: {times['ours'][-1]['all']:.2f} s")
        use_threads(given.threads)
        started = perf_counter()
        _, stages = plain_round(*side)
        times["reference"].append({**stages, "all": perf_counter() - started})
        tell(f"  turn {turn + 1}/{given.repeats}, reference: {times['reference'][-1]['all']:.2f} s")
    ours, plain = ({key: median(each[key] for each in side) for key in (*STAGES, "all")} for side in times.values())
    record = ran.record
    prototypes = sum(len(each.upload.get("prototype_gradients", torch.empty(0))) for each in record.accepted)
    images = sum(each.num_images for each in record.accepted)
    about = (
        f"* {name}: {len(record.observations)} twins look, {len(record.chosen)} train on {images} images in all, "
        f"{prototypes} prototypes are inverted, "
        f"{'a' if next(iter(ran.engine.broadcasts.values())).old_model else 'no'} teacher."
    )
    return ours, plain, about


def _stage_table(rounds: Mapping[str, Mapping[str, Stages]]) -> str:
    rows = []
    for name, sides in rounds.items():
        for stage in (*STAGES, "all"):
            ours, plain = sides["ours"][stage], sides["reference"][stage]
            ratio = f"{plain / ours:.1f}" if ours > 1e-3 else "-"
            rows.append((f"{name}: {stage}", f"{ours:.3f}", f"{plain:.3f}", ratio))
    return table(("round, stage", "ours, s", "reference, s", "ratio"), rows)


def task_seconds(first: Stages, middle: Stages, images: float = 1.0) -> dict[str, float]:
    """Return the seconds of a task by what grows with the images and what does not: the first round and nine like the middle one.

    Args:
        first: Stages of the first round.
        middle: Stages of a later one.
        images: Factor by which the images are more.
    """
    total = {stage: first[stage] + (ROUNDS_PER_TASK - 1) * middle[stage] for stage in (*STAGES, "all")}
    rest = total["all"] - sum(total[stage] for stage in STAGES)
    twins = (total["observe"] + total["train"]) * images
    proxy = total["score"] + total["aggregate"]
    return {"twins": twins, "proxy": proxy, "all": twins + total["prototypes"] + proxy + rest}


def _task_table(rounds: Mapping[str, Mapping[str, Stages]], factor: float) -> str:
    first, middle = rounds.values()
    rows = []
    for label, images in (("as measured", 1.0), (f"all images ({factor:.1f} times as many), estimated", factor)):
        ours, plain = (task_seconds(first[side], middle[side], images) for side in ("ours", "reference"))
        rows.append(
            (
                label,
                f"{ours['all']:.1f}",
                f"{plain['all']:.1f}",
                f"{plain['all'] / ours['all']:.1f}",
                f"{plain['twins'] / ours['twins']:.1f}",
                f"{ours['proxy'] / ours['all']:.1%}",
                f"{plain['proxy'] / plain['all']:.1%}",
            )
        )
    headers = ("a task of ten rounds", "ours, s", "reference, s", "ratio", "ratio without proxy", "proxy's share, ours", "reference's")
    note = (
        "\nA task is the first round and nine like the middle one. The proxy's share counts scoring and all of the aggregation, the mean "
        "of the models included; the twins' part of the prototypes (perturbing, encoding) is not the proxy's. With worker processes ours "
        "counts it as training."
    )
    return table(headers, rows) + "\n" + note


def inversion_table(config: ExperimentConfig, prototypes: int = 10, steps: int = 0) -> str:
    """Return the seconds of inverting prototypes: in one batch, one by one with the same search, one by one as LGA.

    Args:
        config: Its method's settings.
        prototypes: In ours' batch; one by one only one is timed.
        steps: Most steps of each search; 0: each its own.
    """
    reconstruction = cast(FedKA, config.method).reconstruction
    assert reconstruction is not None
    shape, classes = (1, 28, 28), 6
    encoder = GradientEncoder(shape, classes, reconstruction.public_seed)
    generator = torch.Generator().manual_seed(1)
    images, rows = torch.rand(prototypes, *shape, generator=generator), torch.arange(prototypes) % classes
    gradients = encoder.encode(images, rows)
    sizes = [each.shape for each in encoder.parameters()]
    one = [part.view(size) for part, size in zip(torch.split(gradients[0], [size.numel() for size in sizes]), sizes, strict=True)]
    ours = replace(reconstruction, invert_steps=steps or reconstruction.invert_steps)
    works: dict[str, Callable[[], Any]] = {f"ours, {prototypes} in one batch": lambda: invert(encoder, gradients, shape, ours, generator)}
    for name, search, count in (
        ("one by one, same search", "adam", ours.invert_steps),
        ("one by one, L-BFGS as LGA", "lbfgs", steps or 250),
    ):
        rules = PlainRules(config.network, 1, 1, 0.1, 1, 0.1, count, ours.public_seed, ours.stop_below, cast(Search, search))
        works[name] = partial(invert_plainly, one, shape, classes, rules)
    seconds = alternately(works, 1, warm_up=False)
    each = {name: value / prototypes if name.startswith("ours") else value for name, value in seconds.items()}
    first = next(iter(each.values()))
    return table(
        ("inversion", "s per prototype", "times ours"), [(name, f"{each[name]:.3f}", f"{each[name] / first:.1f}") for name in each]
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__)
    size = options.add_mutually_exclusive_group()
    size.add_argument("--thin", dest="full", action="store_false", help="resnet10 w16, 28 px (the default)")
    size.add_argument("--full", action="store_true", help="resnet18 w64, 32 px")
    options.set_defaults(full=False)
    options.add_argument("--images-per-class", type=int, default=None, help="0: all; none: 96 thin, 16 full")
    options.add_argument("--twins", type=int, default=30, help="twins of the pool in the measured task")
    options.add_argument("--epochs", type=int, default=5, help="local epochs")
    options.add_argument("--repeats", type=int, default=1, help="timings of each side")
    options.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16", help="of ours")
    options.add_argument("--engine", choices=["sequential", "processes"], default="sequential", help="of ours")
    options.add_argument("--search", choices=["lbfgs", "adam"], default="adam", help="how the reference inverts")
    options.add_argument("--inversions", action="store_true", help="time one inversion by every search besides")
    options.add_argument("--invert-steps", type=int, default=0, help="of the reference; 0: 250 of L-BFGS, or as many Adam steps as ours")
    given = options.parse_args(arguments)
    if given.images_per_class is None:
        given.images_per_class = 16 if given.full else 96
    return given


if __name__ == "__main__":
    main()
