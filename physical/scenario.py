"""The finished plan of an experiment's data: tasks, and the images of each hospital by round.

Memory grows with the number of images and hospitals, not with their product. Hospitals that
share a class's images share one array of positions, and arrivals are computed on demand.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from physical.hospital import Arrival
from physical.protocol import ScenarioConfig


@dataclass(frozen=True, slots=True)
class ClassImages:
    """Images of one class that reach a hospital in one task; shared images share this object.

    Args:
        class_name: Class of the images.
        positions: In the training split, ascending, shape [N].
    """

    class_name: str
    positions: NDArray[np.int64]


@dataclass(frozen=True)
class HospitalPlan:
    """Plan of one hospital's classes and images.

    Args:
        joins_at_task: First task in which it takes part.
        classes_by_task: New class names by task; empty where it keeps its old data.
        images_by_task: Images of these classes by task, in the data set's order of classes.
        arrival_rounds: For each task, the rounds in which a portion of its images arrives.
    """

    joins_at_task: int
    classes_by_task: tuple[tuple[str, ...], ...]
    images_by_task: tuple[tuple[ClassImages, ...], ...]
    arrival_rounds: tuple[tuple[int, ...], ...]

    @property
    def arrivals(self) -> tuple[Arrival, ...]:
        """Positions in the training split with their round; each portion holds every class."""
        dated = []
        for rounds, groups in zip(self.arrival_rounds, self.images_by_task, strict=True):
            # Class after class, so that every P-th position takes each class evenly.
            positions = np.concatenate(
                [np.empty(0, np.int64), *(each.positions for each in groups)]
            )
            dated += [
                Arrival(at, positions[portion :: len(rounds)]) for portion, at in enumerate(rounds)
            ]
        return tuple(arrival for arrival in dated if len(arrival.positions))

    def first_arrivals(self) -> dict[str, int]:
        """Return the round in which the first image of each class arrives."""
        first: dict[str, int] = {}
        for rounds, groups in zip(self.arrival_rounds, self.images_by_task, strict=True):
            start = 0
            for each in groups:
                here = range(start, start + min(len(each.positions), len(rounds)))
                if here:
                    first.setdefault(
                        each.class_name, rounds[min(index % len(rounds) for index in here)]
                    )
                start += len(each.positions)
        return first


class Arrivals(Mapping[str, tuple[Arrival, ...]]):
    """Mapping of hospital id to arrivals, computed on access.

    Args:
        hospitals: Plan of each hospital.
    """

    def __init__(self, hospitals: Mapping[str, HospitalPlan]) -> None:
        self._hospitals = hospitals

    def __getitem__(self, hospital_id: str) -> tuple[Arrival, ...]:
        return self._hospitals[hospital_id].arrivals

    def __iter__(self) -> Iterator[str]:
        return iter(self._hospitals)

    def __len__(self) -> int:
        return len(self._hospitals)


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

    @property
    def arrivals(self) -> Arrivals:
        """Arrivals by hospital."""
        return Arrivals(self.hospitals)

    def task_at(self, round_number: int) -> int:
        """Return the task of a round; used for measuring only, no twin receives it."""
        return min(round_number // self.rounds_per_task, len(self.tasks) - 1)

    def manifest(self, config: ScenarioConfig) -> dict[str, Any]:
        """Return the plan as plain data, with statistics of the images hospitals share.

        Each group of images is listed once. A hospital's images of a task are those of its
        groups in order; with P arrival rounds, round p brings every P-th image from p on.
        """
        groups = {id(each): each for each in self._groups()}
        number = {key: index for index, key in enumerate(groups)}
        return {
            "scenario": asdict(config),
            "tasks": [list(names) for names in self.tasks],
            "arrival_rounds": [list(rounds) for rounds in arrival_rounds(config)],
            "hospitals": {
                hospital_id: {
                    "joins_at_task": plan.joins_at_task,
                    "classes_by_task": [list(names) for names in plan.classes_by_task],
                    "images_by_task": [
                        sum(len(each.positions) for each in owned) for owned in plan.images_by_task
                    ],
                    "image_groups_by_task": [
                        [number[id(each)] for each in owned] for owned in plan.images_by_task
                    ],
                }
                for hospital_id, plan in self.hospitals.items()
            },
            "image_groups": [
                {"class": each.class_name, "positions": each.positions.tolist()}
                for each in groups.values()
            ],
            "overlap": self._overlap(),
        }

    def _groups(self) -> Iterator[ClassImages]:
        """Yield the image groups of all hospitals; a shared group comes once per owner."""
        return (
            each
            for plan in self.hospitals.values()
            for owned in plan.images_by_task
            for each in owned
        )

    def _overlap(self) -> dict[str, Any]:
        groups = {id(each): each for each in self._groups()}
        num_owners = Counter(id(each) for each in self._groups())
        owners = np.zeros(
            1 + max((each.positions.max(initial=-1) for each in groups.values()), default=-1),
            np.int64,
        )
        for key, each in groups.items():
            owners[each.positions] += num_owners[key]
        shared = {key: int((owners[each.positions] > 1).sum()) for key, each in groups.items()}
        share = {}
        for hospital_id, plan in self.hospitals.items():
            owned = [each for groups_of_task in plan.images_by_task for each in groups_of_task]
            num_images = sum(len(each.positions) for each in owned)
            share[hospital_id] = (
                round(sum(shared[id(each)] for each in owned) / num_images, 4)
                if num_images
                else 0.0
            )
        return {
            "images_in_use": int((owners > 0).sum()),
            "images_with_one_owner": int((owners == 1).sum()),
            "images_with_several_owners": int((owners > 1).sum()),
            "most_owners_of_an_image": int(owners.max(initial=0)),
            "shared_share_by_hospital": share,
        }


def arrival_rounds(config: ScenarioConfig) -> tuple[tuple[int, ...], ...]:
    """Return the arrival rounds of each task: evenly spread, the first at the task's start."""
    step = config.rounds_per_task // config.arrivals_per_task
    portions = range(config.arrivals_per_task)
    return tuple(
        tuple(task * config.rounds_per_task + portion * step for portion in portions)
        for task in range(config.num_tasks)
    )
