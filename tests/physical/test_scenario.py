import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
