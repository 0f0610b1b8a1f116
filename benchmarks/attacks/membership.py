"""Membership inference on the global model, with and without defences.

Federations train for long on a few OrganAMNIST images, so that the model memorises them: the
attacker's best case. Non-members are training images of the data set that no hospital of the run
has; they show the same patients, often in the next slice. Shadow models are federations of the
same configuration on the other half of the data set.

    python -m benchmarks.attacks.membership          # about a quarter of an hour on one core
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from time import perf_counter, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.attacks.membership_tables import Outcome, defences_table, questions_table
from benchmarks.attacks.observed_run import ObservedRun, run_observed
from benchmarks.attacks.scores import Scores, Success, confidence, success
from benchmarks.machine import describe
from benchmarks.measuring import parser, print_progress, use_threads
from federation.experiment.config import ExperimentConfig
from federation.methods.fedavg import FedAvg
from federation.methods.fedka import FedKA
from incremental.detection import DetectionConfig
from incremental.head import Weights
from incremental.network import NetworkConfig
from physical.datasets import load_dataset
from physical.datasets.dataset import ImageDataset
from physical.protocol import ScenarioConfig, generate_hospitals
from physical.transforms import AugmentationConfig
from twin.config import TwinConfig
from twin.local_training import TrainingConfig
from twin.privacy.differential_privacy import UpdateNoise
from twin.privacy.private_training import PrivateTraining
from twin.privacy.update_release import UpdateReleaseConfig

Positions = NDArray[np.int64]
Change = Callable[[ExperimentConfig], ExperimentConfig]
PLAIN = AugmentationConfig(crop_padding_pixels=0, brightness=0)
_FIRST_SHADOW = 1000  # seed of the first shadow federation


@dataclass(frozen=True)
class Size:
    """Amount of computation.

    Args:
        images_per_class: Training images of all hospitals together.
        rounds: Rounds of each of the two tasks.
        epochs: Epochs of a round.
        shadows: Shadow federations of each network.
        others: Non-member images of each class.
        seeds: Seeds of the attacked federations.
    """

    images_per_class: int = 60
    rounds: int = 8
    epochs: int = 5
    shadows: int = 4
    others: int = 400
    seeds: tuple[int, ...] = (1, 2, 3)


def base(size: Size, seed: int) -> ExperimentConfig:
    """Return the attacked federation: FedKA, two tasks of four organs, four hospitals."""
    protocol = ScenarioConfig(
        "organamnist",
        num_tasks=2,
        classes_per_task=4,
        rounds_per_task=size.rounds,
        heterogeneity=1.0,
    )
    return ExperimentConfig(
        name="membership",
        scenario=replace(
            protocol, images="disjoint", keep_fraction=0.0, images_per_class=size.images_per_class
        ),
        hospitals=generate_hospitals(4, 0, 2),
        network=NetworkConfig(backbone="resnet10", width=8, image_size=28, channels=1),
        method=FedKA(head_loss="ce", mean="by_images", reconstruction=None),
        training=TrainingConfig(
            epochs=size.epochs,
            batch_size=16,
            learning_rate=0.05,
            momentum=0.9,
            precision="bfloat16",
            augmentation=PLAIN,
        ),
        twin=TwinConfig(
            memory_capacity=20, held_back_fraction=0.1, detection=DetectionConfig(rule="by_name")
        ),
        seed=seed,
    )


def small(config: ExperimentConfig) -> ExperimentConfig:
    """Return the federation for differential privacy: FedAvg with memory, LeNet, group norm."""
    network = NetworkConfig(backbone="lenet", width=16, norm="group", image_size=28)
    training = replace(config.training, precision="float32")
    return replace(config, network=network, method=FedAvg(memory=True), training=training)


def _training(**changes: Any) -> Change:
    return lambda config: replace(config, training=replace(config.training, **changes))


def _memory(capacity: int) -> Change:
    return lambda config: replace(config, twin=replace(config.twin, memory_capacity=capacity))


def _noise(multiplier: float, clip_norm: float) -> Change:
    return lambda config: replace(
        small(config), outgoing=UpdateReleaseConfig(noise=UpdateNoise(clip_norm, multiplier))
    )


def _private(multiplier: float) -> Change:
    private = PrivateTraining(noise_multiplier=multiplier)
    return lambda config: _training(private=private, gradient_clip=None)(small(config))


# Name -> the attacked federation, and the one whose shadow models calibrate the attack.
DEFENCES: Mapping[str, tuple[Change, Change]] = {
    "none": (lambda config: config, lambda config: config),
    "1 epoch a round, not 5": (_training(epochs=1), _training(epochs=1)),
    "augmentation (platform's default)": (
        _training(augmentation=AugmentationConfig()),
        _training(augmentation=AugmentationConfig()),
    ),
    "no exemplars: memory_capacity 0": (_memory(0), lambda config: config),
    "all images are exemplars: memory_capacity 100": (_memory(100), lambda config: config),
    "LeNet, FedAvg with memory, group norm": (small, small),
    "... outgoing.noise, multiplier 0.01": (_noise(0.01, 1.0), small),
    "... outgoing.noise, multiplier 0.1": (_noise(0.1, 1.0), small),
    "... training.private, multiplier 0.5": (_private(0.5), small),
    "... training.private, multiplier 2": (_private(2.0), small),
}


@dataclass(frozen=True)
class Halves:
    """The data set in two halves: for the attacked federations and for the attacker's."""

    attacked: ImageDataset
    attackers: ImageDataset


@dataclass(frozen=True)
class Groups:
    """Positions of images by their use in one run.

    Args:
        exemplars: Images of the first task in a twin's memory at the end.
        archived: Images of the first task that are no longer trained on.
        current: Images of the last task, trained on to the end.
        others_first: Images of the first task's classes that no hospital has.
        others_last: Images of the last task's classes that no hospital has.
    """

    exemplars: Positions
    archived: Positions
    current: Positions
    others_first: Positions
    others_last: Positions

    def pairs(self) -> dict[str, tuple[Positions, Positions]]:
        """Return members and others of the same classes by question, if there are members."""
        members = np.concatenate([self.exemplars, self.archived, self.current])
        others = np.concatenate([self.others_first, self.others_last])
        pairs = {
            "all members": (members, others),
            "trained on to the end": (self.current, self.others_last),
            "exemplars of the first task": (self.exemplars, self.others_first),
            "first task, archived": (self.archived, self.others_first),
        }
        return {name: both for name, both in pairs.items() if len(both[0])}


def halves(data: ImageDataset) -> Halves:
    """Return two data sets whose training images are a random half each."""
    order = np.random.default_rng(0).permutation(len(data.train))
    one, other = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    return Halves(
        replace(data, train=data.train.take(one)), replace(data, train=data.train.take(other))
    )


def groups_of(run: ObservedRun, most_others: int, seed: int) -> Groups:
    """Return the groups of a run's images, with equally many others of each class."""
    exemplars = np.unique(
        np.concatenate([state.memory.all_positions() for state in run.states.values()])
    )
    current = np.unique(np.concatenate([state.current for state in run.states.values()]))
    archived = np.setdiff1d(run.members, np.concatenate([exemplars, current]))
    batch, plans = run.setup.dataset.train, run.setup.scenario
    arrived = np.concatenate(
        [part.positions for arrivals in plans.arrivals.values() for part in arrivals]
    )
    rng = np.random.default_rng(seed)
    others = []
    for names in plans.tasks:
        labels = [batch.vocabulary.index(name) for name in names]
        free = [np.setdiff1d(np.flatnonzero(batch.labels == label), arrived) for label in labels]
        count = min(most_others, *(len(each) for each in free))
        others.append(np.concatenate([rng.permutation(each)[:count] for each in free]))
    return Groups(exemplars, archived, current, others[0], others[-1])


def confidences(
    run: ObservedRun,
    network: NetworkConfig,
    weights: Weights,
    class_names: Sequence[str],
    positions: Positions,
) -> Scores:
    """Return a model's confidence in the classes of images of a run."""
    batch = run.setup.dataset.train.take(positions)
    rows = np.array([list(class_names).index(batch.vocabulary[label]) for label in batch.labels])
    return confidence(network, weights, batch.images, rows)


def attack(run: ObservedRun, shadows: Sequence[ObservedRun], size: Size) -> Outcome:
    """Attack the last global model of a run, and each hospital's last update."""
    groups = groups_of(run, size.others, run.setup.config.seed)
    every, last = np.unique(np.concatenate(list(astuple(groups)))), run.servers[-1]
    network = run.setup.config.network
    place = {position: index for index, position in enumerate(every.tolist())}

    def select(scores: Scores, positions: Positions) -> Scores:
        return scores[[place[position] for position in positions.tolist()]]

    global_scores = confidences(run, network, last.weights, last.class_names, every)
    models = [(each.setup.config.network, each.servers[-1]) for each in shadows]
    shadow_scores = np.stack(
        [
            confidences(run, kind, server.weights, server.class_names, every)
            for kind, server in models
        ]
    )
    shadow_mean = shadow_scores.mean(0)
    pairs = groups.pairs()
    updates = run.records[-1].accepted
    local_scores = {
        each.twin_id: confidences(run, network, each.weights, last.class_names, every)
        for each in updates
    }
    owned = {twin_id: run.states[twin_id].current for twin_id in local_scores}
    local = [
        success(
            select(local_scores[each] - shadow_mean, owned[each]),
            select(local_scores[each] - shadow_mean, groups.others_last),
        )
        for each in local_scores
    ]
    guessed = {
        each: np.stack([select(scores, owned[each]) for scores in local_scores.values()]).argmax(0)
        for each in local_scores
    }
    num_right = sum(
        int((guessed[twin_id] == index).sum()) for index, twin_id in enumerate(local_scores)
    )
    spent = [float(each.metrics["epsilon"]) for each in updates if "epsilon" in each.metrics]
    return Outcome(
        {
            name: success(select(global_scores, members), select(global_scores, others))
            for name, (members, others) in pairs.items()
        },
        {
            name: success(
                select(global_scores - shadow_mean, members),
                select(global_scores - shadow_mean, others),
            )
            for name, (members, others) in pairs.items()
        },
        {
            name: float(
                np.mean(
                    [
                        success(select(each, members), select(each, others)).auroc
                        for each in shadow_scores
                    ]
                )
            )
            for name, (members, others) in pairs.items()
        },
        Success(*(float(value) for value in np.mean([astuple(each) for each in local], axis=0))),
        num_right / sum(len(each) for each in owned.values()),
        run.accuracy(last),
        max(spent) if spent else None,
    )


def measure(data: ImageDataset, size: Size, names: Sequence[str]) -> dict[str, list[Outcome]]:
    """Return the outcomes of the attacks by defence, one for each seed."""
    parts = halves(data)
    shadows: dict[str, list[ObservedRun]] = {}
    found: dict[str, list[Outcome]] = {}
    for name in names:
        change, calibrate = DEFENCES[name]
        found[name] = []
        for seed in size.seeds:
            began = perf_counter()
            of_attacker = calibrate(base(size, _FIRST_SHADOW))
            if of_attacker.digest() not in shadows:
                configs = [
                    replace(of_attacker, seed=_FIRST_SHADOW + index)
                    for index in range(size.shadows)
                ]
                shadows[of_attacker.digest()] = [
                    run_observed(config, parts.attackers) for config in configs
                ]
            found[name].append(
                attack(
                    run_observed(change(base(size, seed)), parts.attacked),
                    shadows[of_attacker.digest()],
                    size,
                )
            )
            print_progress(
                f"  {name}, seed {seed}: {perf_counter() - began:.0f} s, "
                f"AUROC {found[name][-1].lira['all members'].auroc:.3f}"
            )
    return found


def main() -> None:
    """Run what the command line asks for."""
    options = parser(__doc__)
    options.set_defaults(threads=1)
    options.add_argument("--seeds", type=int, nargs="+", default=Size.seeds)
    options.add_argument("--rounds", type=int, default=Size.rounds)
    options.add_argument("--epochs", type=int, default=Size.epochs)
    options.add_argument("--shadows", type=int, default=Size.shadows)
    options.add_argument("--images-per-class", type=int, default=Size.images_per_class)
    options.add_argument("--others", type=int, default=Size.others)
    options.add_argument(
        "--only", nargs="*", choices=list(DEFENCES), default=[], help="defences to run; none: all"
    )
    settings = options.parse_args()
    use_threads(settings.threads)
    started = perf_counter()
    size = Size(
        settings.images_per_class,
        settings.rounds,
        settings.epochs,
        settings.shadows,
        settings.others,
        tuple(settings.seeds),
    )
    names = [name for name in DEFENCES if not settings.only or name in settings.only]
    found = measure(load_dataset("organamnist"), size, names)
    print(
        f"OrganAMNIST, 2 tasks of 4 organs, 4 hospitals, {size.images_per_class} images of each "
        f"organ, {size.rounds} rounds a task, {size.epochs} epochs a round; "
        f"seeds {', '.join(map(str, size.seeds))}, {size.shadows} shadow federations, "
        f"{8 * size.others} others, {settings.threads} thread, {perf_counter() - started:.0f} s "
        f"({process_time():.0f} s of one core); `python -m benchmarks.attacks.membership`. "
        "Mean ± standard deviation over seeds.\n"
    )
    print(f"{questions_table(found[names[0]])}\n\n{defences_table(found)}\n\n{describe()}")


if __name__ == "__main__":
    main()
