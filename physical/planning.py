"""Plans an experiment's data: class order, which hospital learns which classes, image splits.

A pure function: (labels, class names, config, hospitals, seed) -> Scenario.
"""

from collections.abc import Mapping, Sequence
from math import floor

import numpy as np
from numpy.typing import NDArray

from physical.protocol import HospitalConfig, ScenarioConfig
from physical.scenario import ClassImages, HospitalPlan, Scenario, arrival_rounds

# Names of the random streams: each draw is keyed by what it decides.
_CLASSES, _GROUPS, _IMAGES, _ORDER, _SUBSET = range(5)


class ScenarioError(ValueError):
    """Raised when a scenario does not fit its data set; says what, got, allowed, what to do."""


def plan_scenario(
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    config: ScenarioConfig,
    hospitals: Sequence[HospitalConfig],
    seed: int,
) -> Scenario:
    """Plan which hospital receives which images when.

    Args:
        labels: Labels of the training split, shape [N], pointing into ``class_names``.
        class_names: The data set's classes in their natural order.
        config: The protocol.
        hospitals: The hospitals that take part.
        seed: Key of every draw; the order of the hospitals does not change any class draw.

    Returns:
        The plan. With ``disjoint`` images, each image of a task's classes has one owner.

    Raises:
        ScenarioError: If there are too many classes, an unknown class name, a class without
            images, or no hospital in the first task.
    """
    order = _class_order(class_names, config, seed)
    size = config.classes_per_task
    tasks = tuple(tuple(order[task * size : (task + 1) * size]) for task in range(config.num_tasks))
    _check_every_class_has_images(labels, class_names, tasks)
    _check_hospitals(hospitals, config)
    classes: dict[str, list[tuple[str, ...]]] = {
        hospital.name: [()] * config.num_tasks for hospital in hospitals
    }
    images: dict[str, list[tuple[ClassImages, ...]]] = {
        hospital.name: [()] * config.num_tasks for hospital in hospitals
    }
    for task, names in enumerate(tasks):
        learners = _hospitals_with_new_classes(hospitals, config, task, seed)
        chosen = _choose_classes(learners, names, config, task, seed)
        for name, owned in _split_images(
            labels, class_names, learners, chosen, config, task, seed
        ).items():
            classes[name][task], images[name][task] = chosen[name], tuple(owned)
    rounds = arrival_rounds(config)
    plans = {
        hospital.name: HospitalPlan(
            hospital.joins_at_task,
            tuple(classes[hospital.name]),
            tuple(images[hospital.name]),
            rounds,
        )
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
            f"num_tasks x classes_per_task is {config.num_tasks} x {config.classes_per_task} "
            f"= {needed} classes; {config.dataset} has "
            f"{len(order)}; lower one of the two"
        )
    return order


def _check_every_class_has_images(
    labels: NDArray[np.int64], class_names: Sequence[str], tasks: Sequence[Sequence[str]]
) -> None:
    counts = np.bincount(labels, minlength=len(class_names))
    empty = [
        name for names in tasks for name in names if counts[list(class_names).index(name)] == 0
    ]
    if empty:
        raise ScenarioError(
            f"no training image shows {', '.join(empty)}; "
            "leave the class out (class_order) or bring its images"
        )


def _check_hospitals(hospitals: Sequence[HospitalConfig], config: ScenarioConfig) -> None:
    names = [hospital.name for hospital in hospitals]
    if len(set(names)) != len(names):
        raise ScenarioError(
            "two hospitals have the same name: "
            f"{sorted({name for name in names if names.count(name) > 1})}"
        )
    if not any(hospital.joins_at_task == 0 for hospital in hospitals):
        raise ScenarioError(
            "no hospital takes part in the first task; at least one needs joins_at_task: 0"
        )
    late = [hospital.name for hospital in hospitals if hospital.joins_at_task >= config.num_tasks]
    if late:
        raise ScenarioError(
            f"{', '.join(late)} would join after the last task; "
            f"joins_at_task is at most {config.num_tasks - 1}"
        )


def _hospitals_with_new_classes(
    hospitals: Sequence[HospitalConfig], config: ScenarioConfig, task: int, seed: int
) -> list[HospitalConfig]:
    """Return the hospitals that receive new classes in a task, at least one.

    These are floor((1 - keep_fraction) N) of the N present ones and all that join now.
    """
    in_order = sorted(hospitals, key=lambda hospital: hospital.name)
    present = [hospital for hospital in in_order if hospital.joins_at_task < task]
    joining = [hospital for hospital in in_order if hospital.joins_at_task == task]
    moving = max(floor((1 - config.keep_fraction) * len(present) + 1e-9), 0 if joining else 1)
    drawn = sorted(_rng(seed, _GROUPS, task).permutation(len(present))[:moving])
    return [present[index] for index in drawn] + joining


def _choose_classes(
    learners: Sequence[HospitalConfig],
    names: tuple[str, ...],
    config: ScenarioConfig,
    task: int,
    seed: int,
) -> dict[str, tuple[str, ...]]:
    """Draw each hospital's classes; a class nobody drew goes to the hospital with the fewest."""
    chosen: dict[str, list[int]] = {}
    for hospital in learners:
        share = config.heterogeneity if hospital.heterogeneity is None else hospital.heterogeneity
        count = max(1, floor(share * len(names) + 1e-9))
        key = [*hospital.name.encode()]
        chosen[hospital.name] = sorted(
            _rng(seed, _CLASSES, task, *key).permutation(len(names))[:count].tolist()
        )
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
) -> dict[str, list[ClassImages]]:
    """Distribute the images of a task's classes over the hospitals, class by class."""
    owned: dict[str, list[ClassImages]] = {hospital.name: [] for hospital in learners}
    for name in sorted(
        {name for names in chosen.values() for name in names}, key=list(class_names).index
    ):
        label = list(class_names).index(name)
        positions = _limit_images(np.flatnonzero(labels == label), label, config, seed)
        holders = [hospital for hospital in learners if name in chosen[hospital.name]]
        if config.images == "shared":
            # One object for all hospitals, so memory does not grow with their number.
            parts = [ClassImages(name, positions)] * len(holders)
        else:
            rng = _rng(seed, _IMAGES, task, label)
            shares = np.array([hospital.share for hospital in holders])
            if config.dirichlet_alpha is not None:
                shares = shares * rng.dirichlet(np.full(len(holders), config.dirichlet_alpha))
            cuts = np.round(np.cumsum(shares / shares.sum())[:-1] * len(positions)).astype(np.int64)
            parts = [
                ClassImages(name, np.sort(part))
                for part in np.split(rng.permutation(positions), cuts)
            ]
        for hospital, part in zip(holders, parts, strict=True):
            owned[hospital.name].append(part)
    return owned


def _limit_images(
    positions: NDArray[np.int64], label: int, config: ScenarioConfig, seed: int
) -> NDArray[np.int64]:
    """Draw ``images_per_class`` of a class's images, or return all of them if it is None."""
    if config.images_per_class is None:
        return positions
    drawn: NDArray[np.int64] = np.sort(
        _rng(seed, _SUBSET, label).permutation(positions)[: config.images_per_class]
    )
    return drawn
