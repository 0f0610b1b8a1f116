from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from twin.secure_sum.fixed_point import (
    LARGEST_CHANGE,
    LARGEST_COUNT,
    RESOLUTION,
    FixedPointError,
    change_of,
    decode,
    encode,
    num_elements,
)

REFERENCE = {
    "b": torch.tensor([0.5, -1.25, 3.0]),
    "a": torch.tensor([[1.0, 2.0]], dtype=torch.float64),
    "seen": torch.tensor(7),
}


def moved(by: float, counter: int = 0) -> dict[str, Tensor]:
    local = {
        name: value + by if value.is_floating_point() else value + counter
        for name, value in REFERENCE.items()
    }
    return {name: value.to(REFERENCE[name].dtype) for name, value in local.items()}


def summed(locals_: list[dict[str, Tensor]], counts: list[int]) -> dict[str, Tensor]:
    total = np.zeros(num_elements(REFERENCE), np.uint64)
    for local, count in zip(locals_, counts, strict=True):
        total += encode(change_of(local, REFERENCE), count, sum(counts))
    return decode(total, REFERENCE, sum(counts))


@given(
    st.lists(
        st.tuples(st.floats(-1000, 1000), st.integers(0, 10**6), st.integers(1, 10**5)),
        min_size=1,
        max_size=6,
    )
)
def test_a_sum_of_shares_is_the_weighted_mean_within_half_a_unit_for_each_hospital(
    each: list[tuple[Any, ...]],
) -> None:
    locals_ = [moved(by, counter) for by, counter, _ in each]
    counts = [count for _, _, count in each]
    mean = summed(locals_, counts)
    for name in ("a", "b"):
        exact = sum(
            Fraction(count, sum(counts)) * Fraction(local[name].flatten()[0].item())
            for local, count in zip(locals_, counts, strict=True)
        )
        rounding = float(np.spacing(REFERENCE[name].numpy().dtype.type(abs(float(exact)) + 1)))
        assert (
            abs(Fraction(mean[name].flatten()[0].item()) - exact)
            <= len(each) / 2 * RESOLUTION + rounding
        )
    counter = sum(Fraction(count * number, sum(counts)) for _, number, count in each)
    assert abs(int(mean["seen"]) - 7 - counter) <= Fraction(1, 2)  # type: ignore[operator]  # untyped


def test_integers_are_exact_where_the_mean_is_one_and_stay_integers() -> None:
    mean = summed([moved(0.0, 10**9), moved(0.0, 4 * 10**9)], [2, 1])
    assert mean["seen"].dtype == torch.int64
    assert int(mean["seen"]) == 7 + 2 * 10**9


def test_names_shapes_and_types_come_back_in_their_order() -> None:
    mean = summed([REFERENCE], [3])
    assert list(mean) == list(REFERENCE)
    assert all(
        torch.equal(mean[name], value) and mean[name].dtype == value.dtype
        for name, value in REFERENCE.items()
    )


def test_the_largest_change_comes_back_from_either_end_and_from_a_sum_of_many() -> None:
    for sign in (1, -1):
        local = {**REFERENCE, "a": REFERENCE["a"] + sign * LARGEST_CHANGE}
        assert torch.equal(summed([local] * 7, [1, 2, 3, 4, 5, 6, 7])["a"], local["a"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"a": torch.tensor([[1.0, 2.0]], dtype=torch.float64) + 2 * LARGEST_CHANGE},
            "a weight changed by 8.39e",
        ),
        ({"b": torch.tensor([0.5, float("nan"), 3.0])}, "not finite"),
        ({"b": torch.tensor([0.5, float("inf"), 3.0])}, "not finite"),
        (
            {"b": torch.zeros(2)},
            r"b is torch.float32 \(2,\); the global model's is torch.float32 \(3,\)",
        ),
        ({"b": torch.zeros(3, dtype=torch.float64)}, "b is torch.float64"),
        ({"c": torch.zeros(3)}, "other tensors than the global model: c"),
    ],
)
def test_what_fixed_point_cannot_hold_is_refused(wrong: dict[str, Tensor], message: str) -> None:
    with pytest.raises(FixedPointError, match=message):
        change_of({**REFERENCE, **wrong}, REFERENCE)


def test_a_counter_that_could_overflow_the_sum_is_refused() -> None:
    change = change_of(moved(0.0, LARGEST_COUNT // 100), REFERENCE)
    encode(change, 50, 100)
    with pytest.raises(FixedPointError, match="a counter changed by"):
        encode(change, 50, 101)


@pytest.mark.parametrize("count", [0, -1, 4])
def test_a_share_outside_0_to_1_is_refused(count: int) -> None:
    with pytest.raises(FixedPointError, match="does not exist"):
        encode(change_of(REFERENCE, REFERENCE), count, 3)
