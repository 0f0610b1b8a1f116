"""Accuracy with one hostile hospital of five, with and without screening and robust aggregation.

A small federation on OrganAMNIST learns all eleven organs in one task. In every round one hospital
sends one kind of bad update. The tables show the accuracy of the last global model on test images,
as mean and standard deviation over seeds.

    python -m benchmarks.hostile                # all; about ten minutes on one core
    python -m benchmarks.hostile --dataset phantom_axial --seeds 1     # without a download

``no defence`` is the method's own mean of all updates. ``stops``: the round raised an error, which
ends the run. ``not run``: the outcome is known and harmful. All other cells run the rounds of
``federation.round``.
"""

import argparse
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

# read when torch is imported; networks this small are slower with more threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from benchmarks.measuring import print_progress, table, write_results
from federation.aggregation.robust import RobustConfig
from federation.aggregation.screening import parameter_norm
from federation.engines.sequential import SequentialEngine
from federation.engines.simulated_hospitals import Hospitals, SimulatedHospitals
from federation.experiment.config import ExperimentConfig
from federation.experiment.setup import ExperimentSetup, prepare_experiment
from federation.method import Method
from federation.methods.fedavg import FedAvg
from federation.round import RoundConfig, RoundRecord, run_round
from federation.server import ServerState, grow_for_new_classes, new_server
from incremental.head import Weights
from incremental.proxy import ProxyServer
from incremental.weight_tensors import parameters_of
from physical.batch import Batch
from physical.protocol import generate_hospitals
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate
from twin.state import TwinState
from twin.twin import DigitalTwin

HOSTILE = "hospital-000"  # the first hospital: a mean takes types and names from its update
LONGEST = 80  # characters of a reason shown in the table
PLAIN = {"crop_padding_pixels": 0, "brightness": 0.0}
MOST = 1_000_000  # largest number of images that the screening lets a twin claim


@dataclass(frozen=True)
class HonestMessages:
    """Messages from which a hostile update is made.

    Args:
        update: Update of the hospital's honest twin.
        broadcast: Broadcast that the update answers.
        first: Update of its first round.
    """

    update: TwinUpdate
    broadcast: Broadcast
    first: TwinUpdate

    def moved(self, factor: float) -> TwinUpdate:
        """Return the update with its change of parameters multiplied by a factor."""
        like = parameters_of(self.broadcast.weights)
        moved = {
            name: value + factor * (self.update.weights[name] - value)
            for name, value in like.items()
        }
        return self.with_weights(moved)

    def with_weights(self, changed: Weights) -> TwinUpdate:
        """Return the update with some tensors replaced."""
        return replace(self.update, weights={**self.update.weights, **changed})

    def each(self, change: Callable[[Tensor], Tensor]) -> TwinUpdate:
        """Return the update with every floating tensor changed."""
        return self.with_weights(
            {
                name: change(value)
                for name, value in self.update.weights.items()
                if value.is_floating_point()
            }
        )


def other_class_list(sent: HonestMessages) -> TwinUpdate:
    """Return an honest update with its head's rows and class names in reverse order."""
    turned = sent.with_weights(
        {name: sent.update.weights[name].flip(0) for name in ("head.weight", "head.bias")}
    )
    return replace(turned, class_names=sent.update.class_names[::-1])


def pickled(sent: HonestMessages) -> TwinUpdate:
    """Decode a pickle as a record, which raises the error of the record reader."""
    from federation.flare.records import decode

    return decode(TwinUpdate, pickle.dumps(sent.update.metrics))


def hidden(sent: HonestMessages) -> TwinUpdate:
    """Return the reversed update, with the largest norm that screening accepts."""
    length, allowed = (
        parameter_norm(sent.update.weights, sent.broadcast.weights),
        9.9 * parameter_norm(sent.broadcast.weights),  # screening accepts 10 times this norm
    )
    return sent.moved(-allowed / length)


@dataclass(frozen=True)
class Kind:
    """One kind of hostile behaviour.

    Args:
        damage: Function that makes the hostile update.
        flips: Whether the hospital trains on reversed labels.
        without: Text for the column without a defence, where that case is not run.
    """

    damage: Callable[[HonestMessages], TwinUpdate] = lambda sent: sent.update
    flips: bool = False
    without: str = ""


KINDS: Mapping[str, Kind] = {
    "honest": Kind(),
    "NaN": Kind(lambda sent: sent.each(lambda value: value * torch.nan)),
    "huge norm (x 1e6)": Kind(lambda sent: sent.each(lambda value: value * 1e6)),
    "wrong shape": Kind(
        lambda sent: sent.with_weights({"head.bias": sent.update.weights["head.bias"][:-1]})
    ),
    "wrong dtype": Kind(lambda sent: sent.each(lambda value: value.to(torch.int32))),
    "extra tensor": Kind(lambda sent: sent.with_weights({"backdoor": torch.ones(4)})),
    "other class list": Kind(other_class_list),
    "replayed first round": Kind(lambda sent: sent.first),
    "2 GiB tensor": Kind(
        lambda sent: sent.with_weights({"head.bias": torch.zeros(1).expand(2**29)}),
        without="not run: fills the memory",
    ),
    "pickle bytes": Kind(pickled, without="not run: runs the sender's code"),
    "label-flipped": Kind(flips=True),
    "sign-flipped (x -5)": Kind(lambda sent: sent.moved(-5.0)),
    "scaled x 100": Kind(lambda sent: sent.moved(100.0)),
    "label-flipped, claims 1e6 images": Kind(
        lambda sent: replace(sent.update, num_images=MOST), flips=True
    ),
    "sign-flipped, hidden under screening's norm": Kind(hidden),
    "statistics of batch normalisation x 1e6": Kind(
        lambda sent: sent.with_weights(
            {name: 1e6 * value for name, value in sent.update.weights.items() if "running_" in name}
        )
    ),
}


DEFENCES: Mapping[str, RobustConfig | None] = {
    "no defence": None,
    "screening": RobustConfig(),
    "+ clipping": RobustConfig(clip_norm=2.5),  # honest changes here have norms of 2 to 4
    "+ median": RobustConfig("median"),
    "+ trimmed mean": RobustConfig("trimmed_mean"),
    "+ Krum": RobustConfig("krum"),
}


class MislabelledHospitals:
    """Hospitals of which one has wrong labels.

    Args:
        hospitals: All hospitals.
        misled: Id of the hospital with wrong labels.
    """

    def __init__(self, hospitals: SimulatedHospitals, misled: str) -> None:
        archive = hospitals.archive
        flipped = Batch(
            archive.images, len(archive.vocabulary) - 1 - archive.labels, archive.vocabulary
        )
        self._wards = {True: replace(hospitals, archive=flipped), False: hospitals}
        self._misled = misled
        self.setting = hospitals.setting
        self.device = hospitals.device

    def twin(self, twin_id: str, state: TwinState | None) -> DigitalTwin:
        """Return one twin."""
        return self._wards[twin_id == self._misled].twin(twin_id, state)

    def present(self, round_number: int) -> Sequence[str]:
        """Return the ids of the hospitals that take part."""
        return self._wards[False].present(round_number)


@dataclass
class HostileEngine:
    """A sequential engine in which one twin sends hostile updates.

    Args:
        hospitals: Hospitals of the twins.
        damage: Function that makes the hostile update.
        hostile: Id of the hostile twin.
        trained: Updates by broadcast, over all runs of a seed, so that no twin trains twice on
            the same model.
    """

    hospitals: Hospitals
    damage: Callable[[HonestMessages], TwinUpdate]
    hostile: str = HOSTILE
    trained: dict[bytes, TwinUpdate] = field(default_factory=dict)
    first: TwinUpdate | None = None
    unreadable: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Create the engine that runs the twins."""
        self._engine = SequentialEngine(self.hospitals)

    def present(self, round_number: int) -> Sequence[str]:
        """Return the ids of the twins that take part."""
        return self._engine.present(round_number)

    def observe(self, model: GlobalModel, twin_ids: Sequence[str]) -> Sequence[Observation]:
        """Return the observations of these twins."""
        return list(self._engine.observe(model, twin_ids))

    def train(self, method: Method, broadcasts: Mapping[str, Broadcast]) -> Sequence[TwinUpdate]:
        """Train these twins and replace the hostile update; an unreadable one is left out."""
        updates = []
        for update in (
            self._train(method, twin_id, broadcast) for twin_id, broadcast in broadcasts.items()
        ):
            if update.twin_id != self.hostile:
                updates.append(update)
                continue
            self.first = self.first or update
            try:
                updates.append(
                    self.damage(HonestMessages(update, broadcasts[update.twin_id], self.first))
                )
            except ValueError as error:  # RecordError of the server's record reader
                self.unreadable.append(str(error))
        return updates

    def _train(self, method: Method, twin_id: str, broadcast: Broadcast) -> TwinUpdate:
        """Train a twin or return its cached update: it has no memory, so the broadcast decides."""
        flipped = isinstance(self.hospitals, MislabelledHospitals) and twin_id == self.hostile
        key = sha256(
            repr(
                (twin_id, broadcast.round, broadcast.class_names, broadcast.seed, flipped)
            ).encode()
        )
        for value in broadcast.weights.values():
            key.update(value.numpy().tobytes())
        if key.digest() not in self.trained:
            (self.trained[key.digest()],) = self._engine.train(method, {twin_id: broadcast})
        return self.trained[key.digest()]


def round_without_defence(
    server: ServerState, engine: HostileEngine, method: Method
) -> ServerState:
    """Run a round that aggregates every update with the method's own mean."""
    observations = list(engine.observe(server.model, engine.present(server.round)))
    server, _ = grow_for_new_classes(server, observations)
    broadcasts = {
        each.twin_id: method.broadcast(server, None, each.twin_id) for each in observations
    }
    updates = list(engine.train(method, broadcasts))
    return replace(method.aggregate(server, updates), round=server.round + 1)


@dataclass(frozen=True)
class Outcome:
    """Result of a run.

    Args:
        accuracy: Accuracy of the last global model; None if the run stopped.
        turned_away: Share of rounds in which the hostile update was not aggregated.
        reason: Last reason for rejecting it, or the error that stopped the run.
    """

    accuracy: float | None
    turned_away: float = 0.0
    reason: str = ""


def experiment(arguments: argparse.Namespace, seed: int) -> ExperimentConfig:
    """Return the experiment: five hospitals, eleven organs at once, each image with one owner."""
    changes: dict[str, Any] = {
        "scenario": {
            "dataset": arguments.dataset,
            "num_tasks": 1,
            "classes_per_task": 11,
            "rounds_per_task": arguments.rounds,
            "heterogeneity": 1.0,
            "images": "disjoint",
            "dirichlet_alpha": arguments.alpha,
            "images_per_class": arguments.images_per_class,
        },
        "network": {"backbone": "lenet", "width": 8, "image_size": 28, "channels": 1},
        "training": {
            "epochs": 3,
            "batch_size": 32,
            "learning_rate": 0.1,
            "momentum": 0.9,
            "schedule": "constant",
            "augmentation": PLAIN,
        },
        "twin": {"detection": {"sample": 64}},
        "evaluation": {"round_images": 0, "task_images": arguments.test_images},
        "tracking": {"enabled": False},
    }
    return ExperimentConfig(
        name="hostile", hospitals=generate_hospitals(5, 0, 1), method=FedAvg(), seed=seed, **changes
    )


def run(
    setup: ExperimentSetup,
    kind: Kind,
    defence: RobustConfig | None,
    trained: dict[bytes, TwinUpdate],
) -> Outcome:
    """Run one federation to its end, with cached updates in ``trained``."""
    config, hospitals = setup.config, setup.hospitals()
    engine = HostileEngine(
        MislabelledHospitals(hospitals, HOSTILE) if kind.flips else hospitals,
        kind.damage,
        trained=trained,
    )
    server = new_server(config.network, config.seed, config.federation.settle_rounds)
    proxy = ProxyServer(config.proxy)
    records = list[RoundRecord]()
    for _ in range(config.scenario.rounds_per_task):
        if defence is None:
            try:
                server = round_without_defence(server, engine, config.method)
            except Exception as error:  # the errors of hostile updates are the result
                return Outcome(None, reason=f"{type(error).__name__}: {error}")
            continue
        server, record = run_round(
            server, engine, config.method, proxy, RoundConfig(robust=defence)
        )
        records.append(record)
    accuracy = setup.evaluator.evaluate(
        server.weights, server.class_names, 0, config.evaluation.task_images
    ).accuracy
    reasons = [
        each.reason for record in records for each in record.rejected if each.twin_id == HOSTILE
    ] or engine.unreadable
    away = [HOSTILE not in {each.twin_id for each in record.accepted} for record in records]
    return Outcome(accuracy, mean(away) if away else 0.0, reasons[-1] if reasons else "")


def cell(outcomes: Sequence[Outcome]) -> str:
    """Return mean and standard deviation of the accuracy in percent."""
    values = [100 * each.accuracy for each in outcomes if each.accuracy is not None]
    if len(values) < len(outcomes):
        return "stops"
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def report(found: Mapping[str, Mapping[str, Sequence[Outcome]]]) -> str:
    """Return the tables of accuracies and of reasons for rejection."""
    rows = [
        [
            name,
            *(
                KINDS[name].without
                if defence == "no defence" and KINDS[name].without
                else cell(each)
                for defence, each in by.items()
            ),
        ]
        for name, by in found.items()
    ]
    reasons = []
    for name, by in found.items():
        away = [
            f"{100 * mean(one.turned_away for one in each):.0f}%"
            for defence, each in by.items()
            if defence != "no defence"
        ]
        reason = next((one.reason for one in by.get("screening", ()) if one.reason), "passes")
        reason = reason if len(reason) <= LONGEST else f"{reason[:LONGEST]} …"
        reasons.append([name, *away, reason])
    defences = list(next(iter(found.values())))
    heads = [
        "hostile update",
        *(name for name in defences if name != "no defence"),
        "screening says",
    ]
    first, second = table(["hostile update", *defences], rows), table(heads, reasons)
    return f"{first}\n\nRounds in which nothing of it was aggregated:\n\n{second}"


def main(argv: list[str]) -> int:
    """Measure all combinations, print and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", default="organamnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument(
        "--alpha",
        type=float,
        default=5.0,
        help="how alike the hospitals' shares of each organ are (Dirichlet)",
    )
    parser.add_argument("--images-per-class", type=int, default=120)
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=list(KINDS),
        choices=list(KINDS),
        metavar="KIND",
        help="which; default: all",
    )
    parser.add_argument(
        "--defences", nargs="+", default=list(DEFENCES), choices=list(DEFENCES), metavar="DEFENCE"
    )
    parser.add_argument("--out", type=Path, help="also write JSON here")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    studies = [
        prepare_experiment(experiment(arguments, seed)) for seed in range(1, arguments.seeds + 1)
    ]
    trained: list[dict[bytes, TwinUpdate]] = [{} for _ in studies]
    found: dict[str, dict[str, list[Outcome]]] = {}
    for name in arguments.kinds:
        began = perf_counter()
        kind, found[name] = KINDS[name], {}
        for defence in arguments.defences:
            skipped = defence == "no defence" and kind.without
            seeds = [] if skipped else zip(studies, trained, strict=True)
            found[name][defence] = [
                run(setup, kind, DEFENCES[defence], known) for setup, known in seeds
            ]
        print_progress(f"  {name}: {perf_counter() - began:.0f} s")
    print(
        f"{arguments.dataset}, {arguments.images_per_class} images of each of 11 organs over 5 "
        f"hospitals (Dirichlet {arguments.alpha:g}), {arguments.rounds} rounds of FedAvg, LeNet of "
        f"width 8, one thread. Accuracy in % on {arguments.test_images} test images, "
        f"mean ± standard deviation over {arguments.seeds} seeds.\n"
    )
    print(report(found))
    if arguments.out:
        plain = {
            name: {defence: [vars(one) for one in each] for defence, each in by.items()}
            for name, by in found.items()
        }
        write_results(arguments.out, arguments, outcomes=plain)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
