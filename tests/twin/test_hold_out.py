from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.hold_out import hold_out


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    fraction=st.floats(0.01, 0.5),
    seed=st.integers(0, 99),
)
def test_the_same_number_of_each_class_is_held_out_and_some_of_each_stay(
    counts: list[int], fraction: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    positions = rng.permutation(10_000)[: len(labels)]
    out = np.bincount(labels[hold_out(positions, labels, fraction)], minlength=len(counts))
    usable = [count for count in counts if count > 1]
    expected = max(1, int(fraction * min(usable))) if usable else 0
    assert out.tolist() == [expected if count > 1 else 0 for count in counts]
    assert all(
        left >= 1 for left, count in zip(np.array(counts) - out, counts, strict=True) if count
    )


def test_which_images_depends_on_the_images_and_not_on_their_order() -> None:
    positions, labels = np.arange(50) * 7, np.arange(50) % 2
    kept_out = set(positions[hold_out(positions, labels, 0.2)])
    order = np.random.default_rng(1).permutation(50)
    assert set(positions[order][hold_out(positions[order], labels[order], 0.2)]) == kept_out


def test_a_smaller_memory_changes_the_number_and_not_the_preference() -> None:
    positions, labels = np.arange(100), np.repeat([0, 1], 50)
    more = set(positions[hold_out(positions, labels, 0.2)])
    kept = np.r_[0:50, 50:60]  # the second class is cut to ten
    fewer = set(positions[kept][hold_out(positions[kept], labels[kept], 0.2)])
    assert len(more) == 20 and len(fewer) == 4
    assert {position for position in fewer if position < 50} <= more


@pytest.mark.parametrize("positions", [[], [3], [3, 5]])
def test_single_images_and_a_fraction_of_zero_keep_nothing_out(positions: list[Any]) -> None:
    labels = np.arange(len(positions))
    assert not hold_out(np.array(positions, np.int64), labels, 0.5).any()
    assert not hold_out(np.arange(10), np.zeros(10, np.int64), 0.0).any()
