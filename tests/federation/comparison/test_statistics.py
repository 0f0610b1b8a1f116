from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.comparison.statistics import (
    holm,
    paired_test,
    spread,
    student_cumulative,
    student_quantile,
)

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=8)


@given(statistic=st.floats(-50, 50), freedom=st.integers(1, 30))
def test_students_distribution_is_scipys(statistic: float, freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert student_cumulative(statistic, freedom) == pytest.approx(
        stats.t.cdf(statistic, freedom), abs=1e-12
    )


@pytest.mark.parametrize(
    ("freedom", "table"), [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042)]
)
def test_quantiles_are_those_of_the_printed_tables(freedom: int, table: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(table, abs=5e-4)


@given(values=VALUES, shift=st.floats(-5, 5))
def test_the_paired_test_is_scipys(values: list[float], shift: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(len(values))
    other = [
        value + shift + noise
        for value, noise in zip(values, rng.normal(size=len(values)), strict=True)
    ]
    ours, theirs = paired_test(values, other), stats.ttest_rel(values, other)
    interval = theirs.confidence_interval(0.95)
    assert ours is not None
    assert ours.probability == pytest.approx(theirs.pvalue, abs=1e-9)
    assert ours is not None
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_three_seeds_by_hand() -> None:
    test = paired_test(
        [3.0, 5.0, 7.0], [2.0, 3.0, 4.0]
    )  # differences 1, 2, 3: mean 2, deviation 1, t = 2 sqrt 3 with 2 degrees
    assert test is not None
    assert test.difference == 2
    assert test is not None
    assert test.probability == pytest.approx(0.0742, abs=5e-5)
    assert test is not None
    assert (test.low, test.high) == pytest.approx(
        (2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=5e-4
    )
    assert test is not None
    assert test.count == 3


def test_one_pair_gives_a_difference_and_no_probability() -> None:
    test = paired_test([3.0], [1.0])
    assert test is not None
    assert (test.difference, test.probability, test.low, test.count) == (2.0, None, None, 1)
    assert paired_test([], []) is None


def test_equal_runs_do_not_differ() -> None:
    assert cast(Any, paired_test([1.0, 2.0], [1.0, 2.0])).probability == 1


def test_spread_is_numpys() -> None:
    values = [1.0, 2.5, 9.0]
    assert (cast(Any, spread(values)).mean, cast(Any, spread(values)).deviation) == pytest.approx(
        (np.mean(values), np.std(values, ddof=1))
    )
    assert cast(Any, spread([4.0])).deviation is None and spread([]) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_a_quantile_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"allowed: 0\.5 to below 1"):
        student_quantile(1.0, 3)
