from collections.abc import Sequence
from typing import Any

import pydantic
import pytest

from physical.planning import plan_scenario
from physical.protocol import HospitalConfig, ScenarioConfig, generate_hospitals
from tests.physical.example_plans import (
    config_of,
    labels_of,
    names_of,
)


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
def test_an_invalid_protocol_is_refused(wrong: dict[str, Any], message: str) -> None:
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
def test_an_invalid_hospital_is_refused(wrong: dict[str, Any], message: str) -> None:
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
def test_an_impossible_plan_is_refused(
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
