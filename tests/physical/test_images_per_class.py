from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from physical.planning import plan_scenario
from physical.protocol import ScenarioConfig, generate_hospitals

CLASSES, IMAGES = 6, 40
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), IMAGES))
NAMES = [f"class-{index}" for index in range(CLASSES)]


def used(
    images_per_class: int | None, seed: int = 1, images: Literal["shared", "disjoint"] = "disjoint"
) -> dict[str, NDArray[Any]]:
    config = ScenarioConfig(
        "made",
        2,
        3,
        4,
        images=images,
        heterogeneity=0.67,
        arrivals_per_task=2,
        images_per_class=images_per_class,
    )
    plans = plan_scenario(LABELS, NAMES, config, generate_hospitals(4, 1, 2), seed).hospitals
    return {
        name: np.sort(np.concatenate([each.positions for each in plan.arrivals]))
        for name, plan in plans.items()
        if plan.arrivals
    }


@given(count=st.integers(1, IMAGES), seed=st.integers(0, 2**31))
def test_disjoint_hospitals_share_exactly_so_many_images_of_each_class(
    count: int, seed: int
) -> None:
    positions = np.concatenate(list(used(count, seed).values()))
    assert len(set(positions.tolist())) == len(positions)
    assert np.bincount(LABELS[positions], minlength=CLASSES).tolist() == [count] * CLASSES


def test_shared_images_are_the_same_few_at_every_hospital() -> None:
    together = np.unique(np.concatenate(list(used(7, images="shared").values())))
    assert np.bincount(LABELS[together], minlength=CLASSES).tolist() == [7] * CLASSES


def test_a_limit_above_the_number_of_images_or_none_uses_all_of_them() -> None:
    everything, most = used(None), used(IMAGES + 5)
    assert all(everything[name].tolist() == most[name].tolist() for name in everything)


def test_the_seed_draws_the_images_and_fewer_are_a_subset_of_more() -> None:
    few, more, others = (
        set(np.concatenate(list(used(*key, "shared").values())).tolist())
        for key in ((5, 1), (9, 1), (5, 2))
    )
    assert few < more and few != others


@pytest.mark.parametrize("count", [0, -3])
def test_fewer_than_one_image_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=r"images_per_class is .*; allowed: 1 or more"):
        ScenarioConfig("made", 2, 3, 4, images_per_class=count)
