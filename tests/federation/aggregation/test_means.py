from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from federation.aggregation.means import weighted_mean
from incremental.head import Weights

FLOATS: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "bias": (3,),
    "kernel": (2, 3, 2, 2),
    "empty": (0, 4),
}


def made(count: int, seed: int = 0) -> list[Weights]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {name: torch.randn(shape, generator=generator) for name, shape in FLOATS.items()}
        | {
            "counter": torch.randint(0, 1000, (), generator=generator),
            "counts": torch.randint(-9, 9, (4,), generator=generator),
        }
        for _ in range(count)
    ]


shares = st.lists(st.floats(0, 1000), min_size=1, max_size=6).filter(
    lambda values: sum(values) > 1e-3
)


@given(shares=shares, seed=st.integers(0, 99))
def test_the_mean_is_that_of_numpy(shares: list[float], seed: int) -> None:
    weights = made(len(shares), seed)
    mean = weighted_mean(weights, shares)
    for name in FLOATS:
        expected = np.average([each[name].numpy() for each in weights], axis=0, weights=shares)
        np.testing.assert_allclose(mean[name].numpy(), expected, rtol=1e-5, atol=1e-6)
        assert mean[name].dtype == torch.float32
        assert mean[name].shape == FLOATS[name]


@given(shares=shares, seed=st.integers(0, 99))
def test_integers_are_rounded_and_stay_integers(shares: list[float], seed: int) -> None:
    weights = made(len(shares), seed)
    mean = weighted_mean(weights, shares)
    for name in ("counter", "counts"):
        expected = np.average([each[name].numpy() for each in weights], axis=0, weights=shares)
        assert mean[name].dtype == torch.int64
        assert np.abs(mean[name].numpy() - expected).max() <= 0.5 + 1e-6


@given(shares=shares)
def test_the_mean_of_equal_models_is_that_model_bit_for_bit(shares: list[float]) -> None:
    (model,) = made(1)
    mean = weighted_mean([model] * len(shares), shares)
    assert all(torch.equal(mean[name], value) for name, value in model.items())


def test_only_the_ratio_of_shares_counts() -> None:
    weights = made(3)
    small, large = (
        weighted_mean(weights, [1.0, 2.0, 4.0]),
        weighted_mean(weights, [64.0, 128.0, 256.0]),
    )
    assert all(torch.equal(small[name], large[name]) for name in small)


def test_a_share_of_zero_leaves_a_model_out() -> None:
    weights = made(2)
    mean = weighted_mean(weights, [0.0, 5.0])
    assert all(torch.equal(mean[name], value) for name, value in weights[1].items())


def test_the_models_stay_as_they_were() -> None:
    weights = made(2)
    mean = weighted_mean(weights, [1.0, 1.0])
    for value in mean.values():
        value += 1
    for found, expected in zip(weights, made(2), strict=True):
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_half_precision_stays_half_precision() -> None:
    mean = weighted_mean(
        [{"a": torch.ones(2, dtype=torch.bfloat16)}, {"a": torch.zeros(2, dtype=torch.bfloat16)}],
        [1.0, 3.0],
    )
    assert mean["a"].dtype == torch.bfloat16
    assert mean["a"].tolist() == [0.25, 0.25]


@pytest.mark.parametrize(("weights", "shares"), [([], []), (made(2), [0.0, 0.0])])
def test_a_mean_of_nothing_does_not_exist(weights: Any, shares: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one positive share"):
        weighted_mean(weights, shares)
