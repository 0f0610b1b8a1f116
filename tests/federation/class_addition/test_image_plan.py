import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.class_addition.image_plan import (
    AdditionError,
    AdditionHospital,
    ImageLimits,
    hold_out,
    make_plan,
)
from physical.mirror import Mirror, MirrorError
from tests.federation.class_addition.example_federation import (
    KNOWN,
    NEW,
    SIDE,
    ExampleFederation,
    images,
)

LIMITS = ImageLimits(
    images_per_class=100, held_out_fraction=0.25, held_out_per_class=100, held_out_by="image"
)


def test_images_held_out_from_the_champion_are_held_out_from_the_candidate(
    first: Path, second: Path
) -> None:
    before, after = (
        json.loads((path / "plan.json").read_text())["hospitals"] for path in (first, second)
    )
    for one, other in zip(before, after, strict=True):
        assert all(one["held_out"][name] == other["held_out"][name] for name in KNOWN)


def test_class_names_of_a_mirror_are_replaced_by_those_of_the_catalogue(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "mirror", SIDE)
    mirror.add(images("north", "liver", 12))
    mirror.set_class_name([each.image_id for each in images("north", "liver", 6)], "Leber")
    hospitals = [AdditionHospital("north", tmp_path / "mirror", None)]
    assert make_plan(hospitals, [], LIMITS, {"Leber": "liver"}).approved_names() == ("liver",)
    assert make_plan(hospitals, [], LIMITS, {}).approved_names() == ("Leber", "liver")
    assert make_plan(hospitals, [], LIMITS, {}, ["liver"]).approved_names() == ("liver",)


def test_no_patient_has_images_on_both_sides_if_held_out_by_patient(
    federation: ExampleFederation,
) -> None:
    limits = ImageLimits(100, 0.25, 100, "patient")
    plan = make_plan([AdditionHospital("south", federation.root / "south", None)], [], limits, {})
    (south,) = plan.hospitals
    for name in KNOWN:
        sides = [
            {int(image_id.rsplit("-", 1)[1]) % 5 for image_id in group[name]}
            for group in (south.approved, south.held_out)
        ]
        assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_smaller_limit_chooses_some_of_the_same_images(federation: ExampleFederation) -> None:
    hospitals = [AdditionHospital("south", federation.root / "south", None)]
    all_of_them, few = (
        make_plan(hospitals, [], ImageLimits(most, 0.25, 3, "image"), {}).hospitals[0]
        for most in (100, 5)
    )
    for name in KNOWN:
        assert len(few.approved[name]) == 5 and len(few.held_out[name]) <= 3
        assert set(few.approved[name]) <= set(all_of_them.approved[name])
        assert few.held_out[name] == all_of_them.held_out[name]


@pytest.mark.parametrize(
    ("new_images", "message"),
    [
        ({}, "nothing is approved in north"),
        ({NEW: []}, "nothing is approved"),
        ({NEW: ["north-pancreas-0"]}, "'pancreas' has 1 images; needed: two in one hospital"),
        (
            {NEW: ["north-pancreas-0", "north-pancreas-1"], "tumour": ["north-pancreas-1"]},
            "approved as 'pancreas' and as 'tumour'",
        ),
        ({NEW: ["north-pancreas-0", "nobody"]}, "nobody"),
        ({"Liver": ["north-pancreas-0", "north-pancreas-1"]}, "'Liver' is 'liver' to the champion"),
    ],
)
def test_approved_images_that_cannot_be_trained_on_are_refused(
    federation: ExampleFederation, new_images: dict[str, Any], message: str
) -> None:
    with pytest.raises((AdditionError, MirrorError), match=message):
        make_plan(
            [AdditionHospital("north", federation.root / "north", new_images)], KNOWN, LIMITS, {}
        )


def test_image_that_moved_from_a_known_class_to_a_new_one_is_counted_once(
    federation: ExampleFederation,
) -> None:
    moved = [f"north-liver-{number}" for number in range(10)]
    (north,) = make_plan(
        [AdditionHospital("north", federation.root / "north", {NEW: moved})], KNOWN, LIMITS, {}
    ).hospitals
    assert not set(moved) & set(north.known["liver"])
    assert set(north.approved[NEW]) | set(north.held_out[NEW]) == set(moved)


@given(st.lists(st.floats(0, 1, exclude_max=True), max_size=30), st.floats(0.01, 0.5))
def test_some_images_are_held_out_but_never_all(numbers: list[float], fraction: float) -> None:
    order = np.array(numbers)
    kept_out = hold_out(order, fraction)
    different = len(set(numbers))
    assert kept_out.any() == (different >= 2)
    assert not kept_out.all() or not numbers
    assert all(len(set(kept_out[order == number])) == 1 for number in numbers)


@given(
    st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=30, unique=True),
    st.floats(0, 1, exclude_max=True),
)
def test_arriving_image_moves_at_most_the_last_training_image_to_the_held_out_ones(
    numbers: list[float], arrived: float
) -> None:
    before = hold_out(np.array(numbers), 0.25)
    after = hold_out(np.array([*numbers, arrived]), 0.25)[:-1]
    moved = [
        number for number, was, now in zip(numbers, before, after, strict=True) if now and not was
    ]
    assert moved in ([], [max(numbers)])
