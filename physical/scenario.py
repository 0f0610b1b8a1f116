"""Who sees which class when: class order, tasks, hospitals that join, and how images are split over them.

Pure: (labels, class names, config, hospitals, seed) -> Scenario. Knows neither pixels nor models.

Source: protocol of GLFC, LGA and FedKA (notes on methods, sections 2.2, 2.3 and 3): tasks of equal size without a larger first one;
a hospital takes ``int(heterogeneity * classes_per_task)`` classes of each task; hospitals join at each task; at a boundary 90 % of the
present ones go on to the new classes and 10 % keep their old data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import floor
from typing import Any, Literal

import numpy as np
import pydantic.dataclasses
from numpy.typing import NDArray
from pydantic import ConfigDict

from physical.hospital import Arrival

_CLASSES, _GROUPS, _IMAGES, _ORDER, _SUBSET = range(5)  # names of the random streams; each draw is keyed by what it decides


class ScenarioError(ValueError):
    """A scenario that does not fit its data set: what, got, allowed, what to do."""


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ScenarioConfig:
    """The protocol of one experiment.

    Args:
        dataset: Name of a data set in ``physical.datasets.DATASETS``.
        num_tasks: Number of stages in which new classes appear.
        classes_per_task: New classes of each stage.
        rounds_per_task: Rounds of the federation in each stage.
        class_order: ``natural``, ``shuffled`` (by the seed) or a list of class names.
        heterogeneity: Share of a stage's classes that each hospital sees, in (0, 1]; ``int(share * classes)`` must be at least 1.
        images: ``shared``: a hospital has every image of its classes (paper); ``disjoint``: each image belongs to one hospital.
        dirichlet_alpha: With ``disjoint``: concentration of the split of each class over its hospitals; none: even shares.
        keep_fraction: Share of the present hospitals that see nothing new at a boundary and keep their old data.
        arrivals_per_task: In how many equal portions, spread over the stage's rounds, a stage's images arrive (paper: 1).
        images_per_class: Most training images of each class, drawn by the seed; fewer are among the more of the same seed; none: all.
    """

    dataset: str
    num_tasks: int
    classes_per_task: int
    rounds_per_task: int
    class_order: Literal["natural", "shuffled"] | tuple[str, ...] = "natural"
    heterogeneity: float = 0.6
    images: Literal["shared", "disjoint"] = "shared"
    dirichlet_alpha: float | None = None
    keep_fraction: float = 0.1
    arrivals_per_task: int = 1
    images_per_class: int | None = None

    def __post_init__(self) -> None:
        """Check ranges and what must fit together."""
        for name in ("num_tasks", "classes_per_task", "rounds_per_task", "arrivals_per_task"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if not 0 < self.heterogeneity <= 1:
            raise ValueError(
                f"heterogeneity is {self.heterogeneity}; allowed: above 0 and up to 1 (the share of a task's classes that a "
                "hospital sees); the paper uses 0.4 to 0.7"
            )
        if self.classes_per_hospital < 1:
            raise ValueError(
                f"heterogeneity {self.heterogeneity} of {self.classes_per_task} classes per task leaves int(...) = 0 classes per "
                f"hospital; allowed: at least 1; set heterogeneity to {1 / self.classes_per_task:.2f} or more"
            )
        if not 0 <= self.keep_fraction < 1:
            raise ValueError(f"keep_fraction is {self.keep_fraction}; allowed: 0 to below 1")
        if self.arrivals_per_task > self.rounds_per_task:
            raise ValueError(
                f"arrivals_per_task is {self.arrivals_per_task}; allowed: up to rounds_per_task, which is {self.rounds_per_task}"
            )
        if self.images_per_class is not None and self.images_per_class < 1:
            raise ValueError(f"images_per_class is {self.images_per_class}; allowed: 1 or more, or none for all of them")
        if self.dirichlet_alpha is not None and (self.images != "disjoint" or self.dirichlet_alpha <= 0):
            raise ValueError(
                f"dirichlet_alpha is {self.dirichlet_alpha} with images: {self.images}; allowed: above 0, and only with images: "
                "disjoint; remove it or split the images"
            )

    @property
    def classes_per_hospital(self) -> int:
        """New classes that a hospital sees in each stage: ``int(heterogeneity * classes_per_task)``."""
        # 0.6 * 5 is 3.0000000000000004 in one order and 2.9999999999999996 in another: the paper's int() means the exact product.
        return floor(self.heterogeneity * self.classes_per_task + 1e-9)


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class HospitalConfig:
    """One hospital, named or generated.

    Args:
        name: Its id in the federation.
        joins_at_task: First stage in which it takes part.
        share: Its weight when images are split; 2 gets twice the images of 1.
        heterogeneity: Its own share of each stage's classes; none: the scenario's.
    """

    name: str
    joins_at_task: int = 0
    share: float = 1.0
    heterogeneity: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.name or not all(letter.isalnum() or letter in "-_" for letter in self.name):
            raise ValueError(f"hospital name is {self.name!r}; allowed: letters, digits, '-' and '_' (it becomes a file name)")
        if self.joins_at_task < 0:
            raise ValueError(f"joins_at_task of {self.name} is {self.joins_at_task}; allowed: 0 or more")
        if self.share <= 0:
            raise ValueError(f"share of {self.name} is {self.share}; allowed: above 0")
        if self.heterogeneity is not None and not 0 < self.heterogeneity <= 1:
            raise ValueError(f"heterogeneity of {self.name} is {self.heterogeneity}; allowed: above 0 and up to 1")


def generate_hospitals(initial: int, join_per_task: int, num_tasks: int) -> tuple[HospitalConfig, ...]:
    """Return ``initial`` hospitals and ``join_per_task`` more at each later task, with equal shares."""
    joins = [0] * initial + [task for task in range(1, num_tasks) for _ in range(join_per_task)]
    return tuple(HospitalConfig(f"hospital-{index:03d}", joins_at_task=task) for index, task in enumerate(joins))


@dataclass(frozen=True)
class HospitalPlan:
    """What one hospital will see.

    Args:
        joins_at_task: First stage in which it takes part.
        classes_by_task: Class names that are new to it, by stage; empty where it keeps its old data.
        arrivals: Positions in the training split, with the round of arrival.
    """

    joins_at_task: int
    classes_by_task: tuple[tuple[str, ...], ...]
    arrivals: tuple[Arrival, ...]


@dataclass(frozen=True)
class Scenario:
    """A complete plan: tasks of class names, and a plan per hospital."""

    tasks: tuple[tuple[str, ...], ...]
    rounds_per_task: int
    hospitals: Mapping[str, HospitalPlan]

    @property
    def num_rounds(self) -> int:
        """Rounds of the whole experiment."""
        return len(self.tasks) * self.rounds_per_task

    def task_at(self, round_number: int) -> int:
        """Return the stage to which a round belongs (for measuring; nobody in the federation is told)."""
        return min(round_number // self.rounds_per_task, len(self.tasks) - 1)

    def manifest(self, config: ScenarioConfig) -> dict[str, Any]:
        """Return the plan as plain data, with a report of who shares images with whom."""
        hospitals = {}
        for hospital_id, plan in self.hospitals.items():
            by_task = [0] * len(self.tasks)
            for arrival in plan.arrivals:
                by_task[self.task_at(arrival.round)] += len(arrival.positions)
            hospitals[hospital_id] = {
                "joins_at_task": plan.joins_at_task,
                "classes_by_task": [list(names) for names in plan.classes_by_task],
                "images_by_task": by_task,
                "arrivals": [{"round": each.round, "positions": each.positions.tolist()} for each in plan.arrivals],
            }
        return {
            "scenario": asdict(config),
            "tasks": [list(names) for names in self.tasks],
            "hospitals": hospitals,
            "overlap": self._overlap(),
        }

    def _overlap(self) -> dict[str, Any]:
        owned = {
            key: np.concatenate([np.empty(0, np.int64), *(each.positions for each in plan.arrivals)])
            for key, plan in self.hospitals.items()
        }
        owners = np.bincount(np.concatenate(list(owned.values()))) if owned else np.empty(0, np.int64)
        return {
            "images_in_use": int((owners > 0).sum()),
            "images_with_one_owner": int((owners == 1).sum()),
            "images_with_several_owners": int((owners > 1).sum()),
            "most_owners_of_an_image": int(owners.max(initial=0)),
            "shared_share_by_hospital": {
                key: round(float((owners[positions] > 1).mean()), 4) if len(positions) else 0.0 for key, positions in owned.items()
            },
        }


def plan_scenario(
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    config: ScenarioConfig,
    hospitals: Sequence[HospitalConfig],
    seed: int,
) -> Scenario:
    """Decide who sees what when.

    Args:
        labels: Labels of the training split, shape [N], pointing into ``class_names``.
        class_names: The data set's classes in their natural order.
        config: The protocol.
        hospitals: Who takes part.
        seed: Keys every draw; the order in which hospitals are listed does not change another hospital's draw of classes.

    Returns:
        The plan. With ``disjoint`` images, every image of a task's classes has exactly one owner.

    Raises:
        ScenarioError: More classes than exist, an unknown class name, a class without images, no hospital at the first task.
    """
    order = _class_order(class_names, config, seed)
    size = config.classes_per_task
    tasks = tuple(tuple(order[task * size : (task + 1) * size]) for task in range(config.num_tasks))
    _check_images(labels, class_names, tasks)
    _check_hospitals(hospitals, config)
    classes: dict[str, list[tuple[str, ...]]] = {hospital.name: [()] * config.num_tasks for hospital in hospitals}
    arrivals: dict[str, list[Arrival]] = {hospital.name: [] for hospital in hospitals}
    for task, names in enumerate(tasks):
        learners = _learners(hospitals, config, task, seed)
        chosen = _choose_classes(learners, names, config, task, seed)
        for hospital in learners:
            classes[hospital.name][task] = chosen[hospital.name]
        owned = _split_images(labels, class_names, learners, chosen, config, task, seed)
        for name, positions in owned.items():
            arrivals[name] += _spread(positions, config, task)
    plans = {
        hospital.name: HospitalPlan(hospital.joins_at_task, tuple(classes[hospital.name]), tuple(arrivals[hospital.name]))
        for hospital in hospitals
    }
    return Scenario(tasks, config.rounds_per_task, plans)


def _rng(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng([seed, *key])


def _class_order(class_names: Sequence[str], config: ScenarioConfig, seed: int) -> list[str]:
    needed = config.num_tasks * config.classes_per_task
    if isinstance(config.class_order, tuple):
        order = list(config.class_order)
        unknown = sorted(set(order) - set(class_names))
        if unknown or len(set(order)) != len(order):
            raise ScenarioError(
                f"class_order has unknown or repeated names ({', '.join(unknown) or 'repeated'}); "
                f"allowed: each of {', '.join(class_names)} once"
            )
    else:
        order = list(class_names)
        if config.class_order == "shuffled":
            _rng(seed, _ORDER).shuffle(order)
    if needed > len(order):
        raise ScenarioError(
            f"num_tasks x classes_per_task is {config.num_tasks} x {config.classes_per_task} = {needed} classes; {config.dataset} has "
            f"{len(order)}; lower one of the two"
        )
    return order


def _check_images(labels: NDArray[np.int64], class_names: Sequence[str], tasks: Sequence[Sequence[str]]) -> None:
    counts = np.bincount(labels, minlength=len(class_names))
    empty = [name for names in tasks for name in names if counts[list(class_names).index(name)] == 0]
    if empty:
        raise ScenarioError(f"no training image shows {', '.join(empty)}; leave the class out (class_order) or bring its images")


def _check_hospitals(hospitals: Sequence[HospitalConfig], config: ScenarioConfig) -> None:
    names = [hospital.name for hospital in hospitals]
    if len(set(names)) != len(names):
        raise ScenarioError(f"two hospitals have the same name: {sorted({name for name in names if names.count(name) > 1})}")
    if not any(hospital.joins_at_task == 0 for hospital in hospitals):
        raise ScenarioError("no hospital takes part in the first task; at least one needs joins_at_task: 0")
    late = [hospital.name for hospital in hospitals if hospital.joins_at_task >= config.num_tasks]
    if late:
        raise ScenarioError(f"{', '.join(late)} would join after the last task; joins_at_task is at most {config.num_tasks - 1}")


def _learners(hospitals: Sequence[HospitalConfig], config: ScenarioConfig, task: int, seed: int) -> list[HospitalConfig]:
    """Return who sees new classes in this task: floor(0.9 N) of those already present, and all that join now; never nobody."""
    in_order = sorted(hospitals, key=lambda hospital: hospital.name)
    present = [hospital for hospital in in_order if hospital.joins_at_task < task]
    joining = [hospital for hospital in in_order if hospital.joins_at_task == task]
    moving = max(floor((1 - config.keep_fraction) * len(present) + 1e-9), 0 if joining else 1)
    drawn = sorted(_rng(seed, _GROUPS, task).permutation(len(present))[:moving])
    return [present[index] for index in drawn] + joining


def _choose_classes(
    learners: Sequence[HospitalConfig], names: tuple[str, ...], config: ScenarioConfig, task: int, seed: int
) -> dict[str, tuple[str, ...]]:
    """Draw each hospital's classes; a class that nobody drew goes to the hospital with the fewest, so that none is lost."""
    chosen: dict[str, list[int]] = {}
    for hospital in learners:
        share = config.heterogeneity if hospital.heterogeneity is None else hospital.heterogeneity
        count = max(1, floor(share * len(names) + 1e-9))
        key = [*hospital.name.encode()]
        chosen[hospital.name] = sorted(_rng(seed, _CLASSES, task, *key).permutation(len(names))[:count].tolist())
    for index in range(len(names)):
        if learners and not any(index in own for own in chosen.values()):
            poorest = min(chosen, key=lambda name: (len(chosen[name]), name))
            chosen[poorest] = sorted([*chosen[poorest], index])
    return {name: tuple(names[index] for index in own) for name, own in chosen.items()}


def _split_images(
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    learners: Sequence[HospitalConfig],
    chosen: Mapping[str, tuple[str, ...]],
    config: ScenarioConfig,
    task: int,
    seed: int,
) -> dict[str, NDArray[np.int64]]:
    owned: dict[str, list[NDArray[np.int64]]] = {hospital.name: [] for hospital in learners}
    for name in sorted({name for names in chosen.values() for name in names}, key=list(class_names).index):
        label = list(class_names).index(name)
        positions = _subset(np.flatnonzero(labels == label), label, config, seed)
        holders = [hospital for hospital in learners if name in chosen[hospital.name]]
        if config.images == "shared":
            parts = [positions] * len(holders)
        else:
            rng = _rng(seed, _IMAGES, task, label)
            shares = np.array([hospital.share for hospital in holders])
            if config.dirichlet_alpha is not None:
                shares = shares * rng.dirichlet(np.full(len(holders), config.dirichlet_alpha))
            cuts = np.round(np.cumsum(shares / shares.sum())[:-1] * len(positions)).astype(np.int64)
            parts = np.split(rng.permutation(positions), cuts)
        for hospital, part in zip(holders, parts, strict=True):
            owned[hospital.name].append(part)
    empty = np.empty(0, np.int64)
    return {name: np.concatenate([empty, *map(np.sort, parts)]) for name, parts in owned.items()}  # class after class


def _subset(positions: NDArray[np.int64], label: int, config: ScenarioConfig, seed: int) -> NDArray[np.int64]:
    """Draw as many of a class's images as the experiment uses."""
    if config.images_per_class is None:
        return positions
    drawn: NDArray[np.int64] = np.sort(_rng(seed, _SUBSET, label).permutation(positions)[: config.images_per_class])
    return drawn


def _spread(positions: NDArray[np.int64], config: ScenarioConfig, task: int) -> list[Arrival]:
    """Cut a stage's images into portions that hold every class alike, and date them."""
    start, portions = task * config.rounds_per_task, config.arrivals_per_task
    step = config.rounds_per_task // portions
    dated = [Arrival(start + portion * step, positions[portion::portions]) for portion in range(portions)]
    return [arrival for arrival in dated if len(arrival.positions)]
