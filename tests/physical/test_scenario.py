import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given
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
def test_every_class_has_an_owner_even_if_nobody_drew_it(
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


def test_whoever_joins_sees_new_classes_at_once_and_none_before() -> None:
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


def test_images_arrive_in_dated_portions_of_equal_size() -> None:
    config = config_of(tasks=2, classes=2, rounds=7, heterogeneity=1.0, arrivals_per_task=3)
    scenario = plan(config, generate_hospitals(2, 0, 2), labels=labels_of(4, 10))
    for name, each in scenario.hospitals.items():
        tasks = 1 + bool(each.classes_by_task[1])
        assert [arrival.round for arrival in each.arrivals] == [0, 2, 4, 7, 9, 11][: 3 * tasks]
        assert {len(arrival.positions) for arrival in each.arrivals} == {6, 7}
        assert len(set(owned(scenario, name))) == len(owned(scenario, name)) == 20 * tasks


@pytest.mark.parametrize("order", ["sorted", "alternating"])
def test_each_portion_holds_every_class_alike(order: str) -> None:
    labels = np.repeat([0, 1], 20) if order == "sorted" else np.tile([0, 1], 20)
    config = config_of(tasks=1, classes=2, heterogeneity=1.0, arrivals_per_task=2)
    scenario = plan(config, [HospitalConfig("north")], labels=labels)
    for arrival in scenario.hospitals["north"].arrivals:
        assert np.bincount(labels[arrival.positions], minlength=2).tolist() == [10, 10]


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


def test_a_round_belongs_to_a_task() -> None:
    scenario = plan(config_of(), generate_hospitals(2, 0, 2))
    assert scenario.num_rounds == 8
    assert [scenario.task_at(number) for number in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 1]


@given(
    config=configs,
    hospitals=pools,
    seed=st.integers(0, 2**31),
    alpha=st.sampled_from(["shared", None, 0.05]),
)
def test_the_first_arrival_of_a_class_is_the_first_round_with_an_image_of_it(
    config: ScenarioConfig, hospitals: Sequence[HospitalConfig], seed: int, alpha: Any
) -> None:
    split = (
        {"images": "shared"}
        if alpha == "shared"
        else {"images": "disjoint", "dirichlet_alpha": alpha}
    )
    config = ScenarioConfig(**{**config.__dict__, **split})
    labels = labels_of(config.num_tasks * config.classes_per_task, 7, seed)
    scenario = plan(config, those_in_time(hospitals, config), seed, labels)
    for each in scenario.hospitals.values():
        expected: dict[str, int] = {}
        for arrival in each.arrivals:
            for label in labels[arrival.positions]:
                expected.setdefault(names_of(99)[label], arrival.round)
        assert each.first_arrivals() == expected


def test_hospitals_that_share_images_share_one_array_of_positions() -> None:
    scenario = plan(
        config_of(tasks=1, classes=4, heterogeneity=0.5),
        generate_hospitals(500, 0, 1),
        labels=labels_of(4, 1000),
    )
    arrays = {
        id(group.positions)
        for each in scenario.hospitals.values()
        for owned in each.images_by_task
        for group in owned
    }
    assert len(arrays) == 4
    assert (
        len(json.dumps(scenario.manifest(config_of(tasks=1, classes=4, heterogeneity=0.5))))
        < 500 * 400
    )


def test_a_manifest_says_which_images_arrive_where_and_when() -> None:
    config = config_of(tasks=2, classes=3, rounds=5, arrivals_per_task=2)
    scenario = plan(config, generate_hospitals(4, 1, 2))
    manifest = json.loads(json.dumps(scenario.manifest(config)))
    for name, each in scenario.hospitals.items():
        found = []
        for rounds, groups in zip(
            manifest["arrival_rounds"],
            manifest["hospitals"][name]["image_groups_by_task"],
            strict=True,
        ):
            positions = [
                position
                for group in groups
                for position in manifest["image_groups"][group]["positions"]
            ]
            found += [
                (at, positions[portion :: len(rounds)])
                for portion, at in enumerate(rounds)
                if positions
            ]
        assert found == [(arrival.round, arrival.positions.tolist()) for arrival in each.arrivals]


def test_the_manifest_is_plain_data_that_counts_images() -> None:
    config = config_of(heterogeneity=1.0)
    scenario = plan(config, [HospitalConfig("north"), HospitalConfig("south", joins_at_task=1)])
    manifest = json.loads(json.dumps(scenario.manifest(config)))
    assert manifest["tasks"] == [names_of(6)[:3], names_of(6)[3:]]
    assert manifest["hospitals"]["south"]["images_by_task"] == [0, 30]
    assert manifest["hospitals"]["south"]["joins_at_task"] == 1
    assert manifest["scenario"]["rounds_per_task"] == 4


@pytest.mark.parametrize(("images", "several", "most"), [("shared", 30, 3), ("disjoint", 0, 1)])
def test_the_manifest_reports_who_shares_images(images: str, several: int, most: int) -> None:
    config = config_of(tasks=1, heterogeneity=1.0, images=images)
    overlap = plan(config, generate_hospitals(3, 0, 1)).manifest(config)["overlap"]
    assert overlap["images_in_use"] == 30
    assert overlap["images_with_several_owners"] == several
    assert overlap["images_with_one_owner"] == 30 - several
    assert overlap["most_owners_of_an_image"] == most
    assert set(overlap["shared_share_by_hospital"].values()) == {float(images == "shared")}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tasks": 0}, "num_tasks is 0"),
        ({"rounds": 0}, "rounds_per_task is 0"),
        ({"heterogeneity": 0.0}, "heterogeneity is 0.0"),
        ({"heterogeneity": 1.2}, "heterogeneity is 1.2"),
        ({"heterogeneity": 0.3}, r"set heterogeneity to 0.33 or more"),
        ({"keep_fraction": 1.0}, "keep_fraction is 1.0"),
        ({"arrivals_per_task": 5}, "up to rounds_per_task, which is 4"),
        ({"dirichlet_alpha": 0.5}, "only with images"),
        ({"images": "disjoint", "dirichlet_alpha": 0.0}, "allowed: above 0"),
        ({"imagse": "shared"}, "imagse"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        config_of(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": ""}, "hospital name"),
        ({"name": "../north"}, "becomes a file name"),
        ({"name": "north", "joins_at_task": -1}, "joins_at_task of north is -1"),
        ({"name": "north", "share": 0}, "share of north"),
        ({"name": "north", "heterogeneity": 1.5}, "heterogeneity of north"),
    ],
)
def test_a_hospital_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        HospitalConfig(**wrong)


@pytest.mark.parametrize(
    ("config", "hospitals", "message"),
    [
        (config_of(tasks=3), generate_hospitals(2, 0, 1), "3 x 3 = 9 classes; made has 6"),
        (config_of(class_order=("class-00", "moon")), generate_hospitals(2, 0, 1), "moon"),
        (config_of(class_order=("class-00", "class-00")), generate_hospitals(2, 0, 1), "repeated"),
        (config_of(), [HospitalConfig("north"), HospitalConfig("north")], "same name"),
        (
            config_of(),
            [HospitalConfig("north", joins_at_task=1)],
            "no hospital takes part in the first task",
        ),
        (
            config_of(),
            [HospitalConfig("north"), HospitalConfig("south", joins_at_task=2)],
            "south would join after the last task",
        ),
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    config: ScenarioConfig, hospitals: Sequence[HospitalConfig], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan_scenario(labels_of(6), names_of(6), config, hospitals, 1)


def test_a_class_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="no training image shows class-05"):
        plan_scenario(labels_of(5), names_of(6), config_of(), generate_hospitals(2, 0, 2), 1)


def test_generated_hospitals_have_names_of_their_own_and_join_by_task() -> None:
    hospitals = generate_hospitals(3, 2, 3)
    assert [hospital.joins_at_task for hospital in hospitals] == [0, 0, 0, 1, 1, 2, 2]
    assert len({hospital.name for hospital in hospitals}) == 7
