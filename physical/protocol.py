"""Configuration of the experiment's protocol: tasks, hospitals and how images are split.

Source: protocol of GLFC, LGA and FedKA. All tasks have equal size, also the first one. A
hospital receives ``int(heterogeneity * classes_per_task)`` classes of each task. Hospitals
join at each task. At a task boundary 90 % of the present hospitals go on to the new classes
and 10 % keep their old data.
"""

from math import floor
from typing import Literal

import pydantic.dataclasses
from pydantic import ConfigDict


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ScenarioConfig:
    """The protocol of one experiment.

    Args:
        dataset: Name of a data set in ``physical.datasets.DATASETS``.
        num_tasks: Number of stages in which new classes appear.
        classes_per_task: New classes of each stage.
        rounds_per_task: Rounds of the federation in each stage.
        class_order: ``natural``, ``shuffled`` (by the seed) or a list of class names.
        heterogeneity: Share of a task's classes that each hospital sees, in (0, 1];
            ``int(share * classes)`` must be at least 1.
        images: ``shared``: a hospital has every image of its classes (paper); ``disjoint``:
            each image belongs to one hospital.
        dirichlet_alpha: With ``disjoint``: concentration of the Dirichlet split of each class
            over its hospitals; none: even shares.
        keep_fraction: Share of the present hospitals that receive no new classes at a task
            boundary and keep their old data.
        arrivals_per_task: Number of equal portions, spread over the task's rounds, in which a
            task's images arrive (paper: 1).
        images_per_class: Largest number of training images of each class, drawn by the seed. A
            smaller number draws a subset of a larger one. none: all.
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
        """Check the ranges of single values and of values that depend on each other."""
        for name in ("num_tasks", "classes_per_task", "rounds_per_task", "arrivals_per_task"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if not 0 < self.heterogeneity <= 1:
            raise ValueError(
                f"heterogeneity is {self.heterogeneity}; allowed: above 0 and up to 1 (the share "
                "of a task's classes that a hospital sees); the paper uses 0.4 to 0.7"
            )
        if self.classes_per_hospital < 1:
            raise ValueError(
                f"heterogeneity {self.heterogeneity} of {self.classes_per_task} classes per task "
                "leaves int(...) = 0 classes per hospital; allowed: at least 1; "
                f"set heterogeneity to {1 / self.classes_per_task:.2f} or more"
            )
        if not 0 <= self.keep_fraction < 1:
            raise ValueError(f"keep_fraction is {self.keep_fraction}; allowed: 0 to below 1")
        if self.arrivals_per_task > self.rounds_per_task:
            raise ValueError(
                f"arrivals_per_task is {self.arrivals_per_task}; "
                f"allowed: up to rounds_per_task, which is {self.rounds_per_task}"
            )
        if self.images_per_class is not None and self.images_per_class < 1:
            raise ValueError(
                f"images_per_class is {self.images_per_class}; "
                "allowed: 1 or more, or none for all of them"
            )
        if self.dirichlet_alpha is not None and (
            self.images != "disjoint" or self.dirichlet_alpha <= 0
        ):
            raise ValueError(
                f"dirichlet_alpha is {self.dirichlet_alpha} with images: {self.images}; allowed: "
                "above 0, and only with images: disjoint; remove it or split the images"
            )

    @property
    def classes_per_hospital(self) -> int:
        """Number of new classes of each hospital and task: ``int(heterogeneity * classes)``."""
        # 0.6 * 5 may be 2.9999999999999996; the paper's int() means the exact product.
        return floor(self.heterogeneity * self.classes_per_task + 1e-9)


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class HospitalConfig:
    """One hospital of the experiment.

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
            raise ValueError(
                f"hospital name is {self.name!r}; allowed: letters, digits, '-' and '_' "
                "(it becomes a file name)"
            )
        if self.joins_at_task < 0:
            raise ValueError(
                f"joins_at_task of {self.name} is {self.joins_at_task}; allowed: 0 or more"
            )
        if self.share <= 0:
            raise ValueError(f"share of {self.name} is {self.share}; allowed: above 0")
        if self.heterogeneity is not None and not 0 < self.heterogeneity <= 1:
            raise ValueError(
                f"heterogeneity of {self.name} is {self.heterogeneity}; "
                "allowed: above 0 and up to 1"
            )


def generate_hospitals(
    initial: int, join_per_task: int, num_tasks: int
) -> tuple[HospitalConfig, ...]:
    """Return ``initial`` hospitals and ``join_per_task`` more per later task, equal shares."""
    joins = [0] * initial + [task for task in range(1, num_tasks) for _ in range(join_per_task)]
    return tuple(
        HospitalConfig(f"hospital-{index:03d}", joins_at_task=task)
        for index, task in enumerate(joins)
    )
