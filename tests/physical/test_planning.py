from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from physical.planning import plan_scenario
from physical.protocol import HospitalConfig, ScenarioConfig, generate_hospitals
from tests.physical.example_plans import (
    config_of,
    configs,
    labels_of,
    names_of,
    owned,
    plan,
    pools,
    those_in_time,
)


@given(
    config=configs,
    hospitals=pools,
    seed=st.integers(0, 2**31),
    alpha=st.sampled_from([None, 0.05, 0.5, 5.0]),
)
def test_disjoint_parts_are_complete_and_without_overlap(
    config: ScenarioConfig, hospitals: Sequence[HospitalConfig], seed: int, alpha: float | None
) -> None:
    config = ScenarioConfig(**{**config.__dict__, "images": "disjoint", "dirichlet_alpha": alpha})
    hospitals = those_in_time(hospitals, config)
    labels = labels_of(
        config.num_tasks * config.classes_per_task + 1, 7, seed
    )  # one class is in no task
    names = names_of(labels.max() + 1)
    scenario = plan_scenario(labels, names, config, hospitals, seed)
    parts = np.concatenate([owned(scenario, hospital.name) for hospital in hospitals])
    assert sorted(parts) == np.flatnonzero(labels < labels.max()).tolist()


@given(config=configs, hospitals=pools, seed=st.integers(0, 2**31))
def test_shared_images_are_all_images_of_each_class_that_a_hospital_sees(
    config: ScenarioConfig, hospitals: Sequence[HospitalConfig], seed: int
) -> None:
    hospitals = those_in_time(hospitals, config)
    labels = labels_of(config.num_tasks * config.classes_per_task, 7, seed)
    scenario = plan(config, hospitals, seed, labels)
    for name, each in scenario.hospitals.items():
        own = {names_of(99).index(seen) for task in each.classes_by_task for seen in task}
        assert sorted(owned(scenario, name)) == np.flatnonzero(np.isin(labels, list(own))).tolist()


@given(config=configs, hospitals=pools, seed=st.integers(0, 2**31))
def test_every_class_has_an_owner_even_if_no_hospital_drew_it(
    config: ScenarioConfig, hospitals: Sequence[HospitalConfig], seed: int
) -> None:
    scenario = plan(config, those_in_time(hospitals, config), seed)
    for task, names in enumerate(scenario.tasks):
        assert set(names) == {
            name for each in scenario.hospitals.values() for name in each.classes_by_task[task]
        }


def test_the_only_hospital_goes_on_to_the_new_classes() -> None:
    scenario = plan(config_of(tasks=3), [HospitalConfig("alone")])
    assert [len(names) for names in scenario.hospitals["alone"].classes_by_task] == [3, 3, 3]


@pytest.mark.parametrize(
    ("heterogeneity", "classes", "expected"),
    [
        (0.4, 10, 4),
        (0.5, 10, 5),
        (0.6, 10, 6),
        (0.7, 10, 7),
        (0.67, 3, 2),
        (0.66, 3, 1),
        (0.6, 5, 3),
        (1.0, 3, 3),
        (0.29, 100, 29),
    ],
)
def test_a_hospital_takes_the_whole_number_of_its_share_of_classes(
    heterogeneity: float, classes: int, expected: int
) -> None:
    config = config_of(tasks=1, classes=classes, heterogeneity=heterogeneity)
    assert config.classes_per_hospital == expected
    scenario = plan(config, generate_hospitals(40, 0, 1))
    assert {len(each.classes_by_task[0]) for each in scenario.hospitals.values()} == {expected}


def test_a_hospital_may_have_a_share_of_its_own() -> None:
    many = generate_hospitals(20, 0, 1)
    scenario = plan(
        config_of(tasks=1, classes=10), [*many, HospitalConfig("clinic", heterogeneity=0.2)]
    )
    assert len(scenario.hospitals["clinic"].classes_by_task[0]) == 2


def test_tasks_follow_the_natural_order() -> None:
    assert plan(config_of(), generate_hospitals(4, 0, 2)).tasks == (
        ("class-00", "class-01", "class-02"),
        ("class-03", "class-04", "class-05"),
    )


def test_tasks_follow_a_given_order_or_one_drawn_by_the_seed() -> None:
    hospitals = generate_hospitals(4, 0, 2)
    backwards = tuple(reversed(names_of(6)))
    given_order = plan(config_of(class_order=backwards), hospitals)
    assert sum(given_order.tasks, ()) == backwards
    shuffled = [
        sum(plan(config_of(class_order="shuffled"), hospitals, seed).tasks, ())
        for seed in (1, 1, 2)
    ]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert sorted(shuffled[0]) == names_of(6)
    assert shuffled[0] != tuple(names_of(6))


def test_pool_and_transitions_are_those_of_the_paper() -> None:
    config = config_of(tasks=10, classes=2, heterogeneity=0.5)
    scenario = plan(config, generate_hospitals(30, 5, 10))
    plans = scenario.hospitals.values()
    pool = [sum(each.joins_at_task <= task for each in plans) for task in range(10)]
    assert pool == [30, 35, 40, 45, 50, 55, 60, 65, 70, 75]
    going_on = [
        sum(each.joins_at_task < task and bool(each.classes_by_task[task]) for each in plans)
        for task in range(1, 10)
    ]
    assert going_on == [27, 31, 36, 40, 45, 49, 54, 58, 63]
    assert [present - moving for present, moving in zip(pool, going_on, strict=False)][:2] == [3, 4]


def test_a_joining_hospital_sees_new_classes_at_once_and_none_before() -> None:
    for each in plan(config_of(tasks=3), generate_hospitals(3, 2, 3)).hospitals.values():
        assert each.classes_by_task[each.joins_at_task]
        assert not any(each.classes_by_task[: each.joins_at_task])
        assert all(arrival.round >= each.joins_at_task * 4 for arrival in each.arrivals)


@given(config=configs, seed=st.integers(0, 2**31), images=st.sampled_from(["shared", "disjoint"]))
def test_the_same_seed_gives_the_same_plan(config: ScenarioConfig, seed: int, images: str) -> None:
    config = ScenarioConfig(**{**config.__dict__, "images": images})
    hospitals = those_in_time(generate_hospitals(4, 1, 3), config)
    assert plan(config, hospitals, seed).manifest(config) == plan(config, hospitals, seed).manifest(
        config
    )


def test_another_seed_gives_another_plan() -> None:
    config = config_of(classes=10)
    manifests = [
        plan(config, generate_hospitals(5, 0, 2), seed).manifest(config) for seed in (1, 2)
    ]
    assert manifests[0] != manifests[1]


@pytest.mark.parametrize("keep_fraction", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("heterogeneity", [0.2, 0.6])
def test_the_order_in_which_hospitals_are_listed_changes_nobodys_classes(
    keep_fraction: float, heterogeneity: float
) -> None:
    config = config_of(tasks=3, classes=5, keep_fraction=keep_fraction, heterogeneity=heterogeneity)
    hospitals = generate_hospitals(6, 1, 3)
    forwards, backwards = plan(config, hospitals), plan(config, hospitals[::-1])
    for name in forwards.hospitals:
        assert (
            forwards.hospitals[name].classes_by_task == backwards.hospitals[name].classes_by_task
        ), name


def test_a_further_hospital_changes_nobodys_first_classes() -> None:
    config = config_of(tasks=1, classes=10)
    few, many = (plan(config, generate_hospitals(count, 0, 1)) for count in (10, 11))
    for name, each in few.hospitals.items():
        assert each.classes_by_task == many.hospitals[name].classes_by_task


def test_a_hospital_of_twice_the_share_has_twice_the_images() -> None:
    config = config_of(tasks=1, classes=2, heterogeneity=1.0, images="disjoint")
    scenario = plan(
        config,
        [HospitalConfig("small"), HospitalConfig("large", share=2)],
        labels=labels_of(2, 300),
    )
    assert [len(owned(scenario, name)) for name in ("small", "large")] == [200, 400]


def test_a_small_concentration_splits_less_evenly_than_a_large_one() -> None:
    spread = {}
    for alpha in (0.1, 100.0):
        config = config_of(
            tasks=1, classes=3, heterogeneity=1.0, images="disjoint", dirichlet_alpha=alpha
        )
        scenario = plan(config, generate_hospitals(5, 0, 1), labels=labels_of(3, 200))
        spread[alpha] = np.std([len(owned(scenario, name)) for name in scenario.hospitals])
    assert spread[0.1] > 3 * spread[100.0]
