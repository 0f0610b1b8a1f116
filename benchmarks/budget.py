"""Computes the least cost of a local step, a round and a task from the configurations alone.

``python -m benchmarks.budget`` prints the tables of ``docs/performance.md``; ``--write
docs/performance.md`` puts them between its marks; ``--measure`` also measures this machine's
peaks and converts operations and bytes into time. Nothing is trained.

Formulae, with F the operations of one forward pass of one image, F_1 those of its first
convolution, B the batch size:

* step: ``B (3 F - F_1 + F)``: forward; backward for weights and for maps, each as much as forward
  except for the gradient of the images, which is not needed; the teacher's forward.
* round: twins of the pool x images of an observation x F, + training twins x epochs x images of a
  twin x step / B, + proxy server: test images of the prototypes x F; prototypes x steps x
  (perturbation: 3 F - F_1; inversion: counted on the public network).
* first round of a task: in addition one forward pass of all images of the finished task, for
  herding.
* task: the first round and the others.

Operations are counted by running the work (``benchmarks.flops``), and a test compares them with
the formula. Bytes are what every operator would read and write without caches and fusion, in the
configuration's precision, measured on two small batches and extrapolated linearly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.flops import (
    count_bytes,
    count_flops,
    forward_flops_per_image,
    model_flops_per_image,
    model_step,
    traffic,
)
from benchmarks.machine import Peak, measure_peak, peak_table
from benchmarks.measuring import duration, parser, scaled, table, use_threads
from federation.experiment.config import ExperimentConfig, load_experiment
from federation.methods.fedka import FedKA
from incremental.network import IncrementalNetwork, freeze
from incremental.reconstruction import GradientEncoder, ReconstructionConfig, invert
from physical.datasets import entry_of
from physical.planning import plan_scenario
from physical.scenario import Scenario

CONFIGS = Path(__file__).parent.parent / "hospital_configs"
# Training images of each class, so that no data is needed: OrganAMNIST's counts, CIFAR-100's 500.
CLASS_COUNTS = {
    "organamnist": (1956, 1390, 1357, 1474, 3963, 3817, 6164, 3919, 3929, 3031, 3561),
    "cifar100": (500,) * 100,
}
MARKS = ("<!-- budget: begin (python -m benchmarks.budget --write) -->", "<!-- budget: end -->")
VARIANTS = 5  # test images of a prototype: the reconstruction and four varied copies


@dataclass(frozen=True)
class Cost:
    """Floating-point operations and bytes of a piece of work."""

    flops: float
    bytes: float

    def __add__(self, other: "Cost") -> "Cost":
        """Return the sum of two costs."""
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> "Cost":
        """Return the cost multiplied by a number."""
        return Cost(self.flops * times, self.bytes * times)


@dataclass(frozen=True)
class Protocol:
    """Numbers of an experiment that determine its cost in one task.

    Args:
        task: Number of the task, from 0.
        twins: Number of twins in the pool.
        arrivals: Mean number of images that a twin receives in this task.
        earlier: Mean number of images of the task before, which the twin archives.
        exemplars: Mean number of exemplars in its memory.
        rows: Number of classes of the student.
        old_rows: Number of classes of the teacher.
        prototypes_per_twin: Number of classes that a twin sees in this task.
    """

    task: int
    twins: int
    arrivals: float
    earlier: float
    exemplars: float
    rows: int
    old_rows: int
    prototypes_per_twin: int


def protocol_of(config: ExperimentConfig, task: int) -> Protocol:
    """Return the numbers of a task's mean twin, from the plan of the experiment."""
    counts = CLASS_COUNTS[config.scenario.dataset]
    labels: NDArray[np.int64] = np.repeat(np.arange(len(counts)), counts)
    scenario = plan_scenario(
        labels,
        entry_of(config.scenario.dataset).sheet.class_names,
        config.scenario,
        config.hospitals,
        config.seed,
    )
    present = [plan for plan in scenario.hospitals.values() if plan.joins_at_task <= task]
    memories = []
    for plan in present:
        finished = sum(len(names) for names in plan.classes_by_task[:task])
        room = config.twin.memory_capacity // max(finished, 1)
        sizes = [
            counts[label]
            for each in plan.arrivals
            if scenario.task_at(each.round) < task
            for label in np.unique(labels[each.positions])
        ]
        memories.append(sum(min(room, size) for size in sizes))
    size = config.scenario.classes_per_task
    return Protocol(
        task,
        len(present),
        _mean_images(scenario, task, len(present)),
        _mean_images(scenario, task - 1, len(present)) if task else 0.0,
        float(np.mean(memories)),
        size * (task + 1),
        size * task,
        config.scenario.classes_per_hospital,
    )


def _mean_images(scenario: Scenario, task: int, twins: int) -> float:
    arrived = [
        len(each.positions)
        for plan in scenario.hospitals.values()
        for each in plan.arrivals
        if scenario.task_at(each.round) == task
    ]
    return sum(arrived) / twins


def costs(config: ExperimentConfig, protocol: Protocol) -> dict[str, Cost]:
    """Return the cost of a step, a forward pass, the proxy server's work, a round and a task."""
    network = config.network
    batch = config.training.batch_size
    bfloat16 = config.training.precision == "bfloat16"
    rows, old_rows = protocol.rows, protocol.old_rows
    method = config.method
    assert isinstance(method, FedKA)
    assert method.reconstruction is not None
    fixed, each = traffic(lambda size: model_step(network, size, rows, old_rows, bfloat16))
    step = Cost(model_flops_per_image(network, rows, old_rows) * batch, fixed + each * batch)
    look_fixed, look_each = traffic(lambda size: _look(config, size, rows))
    # 256 images share one reading of the weights
    look = Cost(forward_flops_per_image(network, rows), look_each + look_fixed / 256)
    chosen = config.federation.twins_per_round
    sample = min(config.twin.detection.sample or np.inf, protocol.arrivals)
    steps = chosen * config.training.epochs * (protocol.arrivals + protocol.exemplars) / batch
    prototypes = chosen * protocol.prototypes_per_twin
    mean = Cost(
        0,
        4
        * sum(value.numel() for value in IncrementalNetwork(network, rows).parameters())
        * (chosen + 1),
    )
    perturb = Cost(model_flops_per_image(network, rows, 0), each) * (
        prototypes * method.reconstruction.perturb_steps
    )
    later = look * (protocol.twins * sample) + step * steps + look * (prototypes * VARIANTS) + mean
    search = _inversion(config, rows, prototypes, method.reconstruction)
    first = later + perturb + search + look * (protocol.twins * protocol.earlier)
    rounds = config.scenario.rounds_per_task
    return {
        f"local step, batch {batch}": step,
        "look at one image": look,
        "inverting a round's prototypes": search,
        "round": later,
        "first round of a task": first,
        f"task of {rounds} rounds": first + later * (rounds - 1),
    }


def _look(config: ExperimentConfig, size: int, rows: int) -> Callable[[], object]:
    network = freeze(IncrementalNetwork(config.network, rows))
    images = torch.rand(
        size, config.network.channels, config.network.image_size, config.network.image_size
    )
    return lambda: network(images)


def _inversion(
    config: ExperimentConfig, rows: int, prototypes: int, settings: ReconstructionConfig
) -> Cost:
    shape = entry_of(config.scenario.dataset).sheet.image_size
    image_shape = (shape[2], shape[0], shape[1])
    encoder = GradientEncoder(image_shape, rows, settings.public_seed)
    gradients = encoder.encode(
        torch.rand(prototypes, *image_shape), torch.arange(prototypes) % rows
    )
    brief = ReconstructionConfig(invert_steps=2, stop_below=0.0)

    def search() -> None:
        invert(encoder, gradients, image_shape, brief, torch.Generator().manual_seed(1))

    return Cost(count_flops(search) / 2, count_bytes(search) / 2) * settings.invert_steps


def budget_table(name: str, task: int, peak: Peak | None) -> str:
    """Return the budget of one experiment as Markdown."""
    config = load_experiment(CONFIGS / name)
    protocol = protocol_of(config, task)
    rows = []
    for what, cost in costs(config, protocol).items():
        times = ["not measured"] * 3
        if peak is not None:
            seconds = [cost.flops / peak.flops[each] for each in ("float32", "bfloat16")] + [
                cost.bytes / peak.bytes_per_second
            ]
            times = [duration(each) for each in seconds]
        rows.append((what, scaled(cost.flops, "FLOP"), scaled(cost.bytes, "B"), *times))
    lead = (
        f"**{name}**, task {task + 1} of {config.scenario.num_tasks}: {protocol.twins} twins, "
        f"of which {config.federation.twins_per_round} train; "
        f"a twin has {protocol.arrivals:,.0f} images of its task and "
        f"{protocol.exemplars:,.0f} exemplars (means); {config.training.epochs} epochs, "
        f"batch {config.training.batch_size}, {config.training.precision}; "
        f"{protocol.rows} classes, of which the teacher knows {protocol.old_rows}.\n"
    )
    headers = (
        "",
        "operations",
        "bytes",
        "time at float32 peak",
        "time at bfloat16 peak",
        "time at memory's peak",
    )
    return lead + "\n" + table(headers, rows)


def budget(peak: Peak | None) -> str:
    """Return all tables."""
    measured = "Peaks of this machine: not measured." if peak is None else peak_table(peak)
    return "\n\n".join(
        [
            measured,
            budget_table("organa_paper", 1, peak),
            budget_table("cifar100_t10_paper", 4, peak),
        ]
    )


def write_between_marks(path: Path, text: str) -> None:
    """Replace the text between the marks of a document."""
    before, _, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    _, found, after = rest.partition(MARKS[1])
    if not found:
        raise SystemExit(
            f"{path} has no marks {MARKS[0]} ... {MARKS[1]}; put them where the budget shall stand"
        )
    path.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Print or write the budget."""
    options = parser(__doc__)
    options.add_argument("--measure", action="store_true", help="measure this machine's peaks")
    options.add_argument(
        "--write", type=Path, default=None, help="document to write into instead of printing"
    )
    settings = options.parse_args(arguments)
    use_threads(settings.threads)
    text = budget(measure_peak(settings.threads) if settings.measure else None)
    if settings.write is None:
        print(text)
    else:
        write_between_marks(settings.write, text)


if __name__ == "__main__":
    main()
