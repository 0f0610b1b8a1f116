"""Small scenarios for tests, and hypothesis strategies of protocols and hospital pools."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from physical.planning import plan_scenario
from physical.protocol import HospitalConfig, ScenarioConfig, generate_hospitals
from physical.scenario import Scenario


def names_of(count: int) -> list[str]:
    return [f"class-{index:02d}" for index in range(count)]


def labels_of(classes: int, images_each: int = 10, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), images_each))


def config_of(tasks: int = 2, classes: int = 3, rounds: int = 4, **more: Any) -> ScenarioConfig:
    return ScenarioConfig(
        "made", num_tasks=tasks, classes_per_task=classes, rounds_per_task=rounds, **more
    )


def plan(
    config: ScenarioConfig,
    hospitals: Sequence[HospitalConfig],
    seed: int = 1,
    labels: NDArray[np.int64] | None = None,
) -> Scenario:
    count = config.num_tasks * config.classes_per_task
    return plan_scenario(
        labels_of(count) if labels is None else labels, names_of(count), config, hospitals, seed
    )


def owned(scenario: Scenario, name: str) -> NDArray[np.int64]:
    return np.concatenate(
        [np.empty(0, np.int64), *(each.positions for each in scenario.hospitals[name].arrivals)]
    )


configs = st.builds(
    config_of,
    tasks=st.integers(1, 3),
    classes=st.integers(2, 5),
    heterogeneity=st.sampled_from([0.5, 0.6, 0.67, 1.0]),
    arrivals_per_task=st.integers(1, 4),
)
pools = st.sampled_from(
    [generate_hospitals(initial, join, 3) for initial in range(2, 7) for join in range(3)]
)


def those_in_time(
    hospitals: Sequence[HospitalConfig], config: ScenarioConfig
) -> list[HospitalConfig]:
    return [hospital for hospital in hospitals if hospital.joins_at_task < config.num_tasks]
