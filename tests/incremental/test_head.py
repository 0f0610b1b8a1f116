from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from incremental.head import HEAD_ROWS, Weights, grow_head, num_rows, pad_rows


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(rows: int, features: int) -> Weights:
    generator = seeded(rows * 100 + features)
    return {
        "backbone.weight": torch.randn(3, 3, generator=generator),
        "backbone.count": torch.tensor(5),
        "head.weight": torch.randn(rows, features, generator=generator),
        "head.bias": torch.randn(rows, generator=generator),
    }


sizes = {
    "rows": st.integers(0, 12),
    "new": st.integers(0, 7),
    "features": st.integers(1, 16),
    "seed": st.integers(0, 2**31),
}


@given(**sizes)
def test_a_grown_head_keeps_its_old_rows_bit_for_bit(
    rows: int, new: int, features: int, seed: int
) -> None:
    weights = made(rows, features)
    grown = grow_head(weights, new, seeded(seed))
    assert num_rows(grown) == rows + new
    for name in HEAD_ROWS:
        assert torch.equal(grown[name][:rows], weights[name])
    assert num_rows(weights) == rows


@given(**sizes)
def test_a_grown_head_keeps_old_logits(rows: int, new: int, features: int, seed: int) -> None:
    weights = made(rows, features)
    grown = grow_head(weights, new, seeded(seed))
    seen = torch.randn(4, features, generator=seeded(seed))
    old = seen @ weights["head.weight"].T + weights["head.bias"]
    torch.testing.assert_close((seen @ grown["head.weight"].T + grown["head.bias"])[:, :rows], old)


@given(**sizes)
def test_new_rows_are_those_of_a_fresh_linear_layer(
    rows: int, new: int, features: int, seed: int
) -> None:
    grown = grow_head(made(rows, features), new, seeded(seed))
    for name in HEAD_ROWS:
        assert bool((grown[name][rows:].abs() <= 1 / sqrt(features) + 1e-6).all())
        assert grown[name].dtype == torch.float32


def test_everything_but_the_head_is_shared() -> None:
    weights = made(2, 3)
    grown = grow_head(weights, 2, seeded())
    assert grown["backbone.weight"] is weights["backbone.weight"]
    assert grown["backbone.count"] is weights["backbone.count"]
    assert list(grown) == list(weights)


def test_new_rows_depend_on_the_generator_alone() -> None:
    state = torch.get_rng_state()
    first, second, other = (
        grow_head(made(2, 3), 2, seeded(seed))["head.weight"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_a_head_never_shrinks() -> None:
    with pytest.raises(ValueError, match="num_new is -1"):
        grow_head(made(2, 3), -1, seeded())


@given(
    have=st.integers(0, 6), want=st.integers(0, 9), trailing=st.lists(st.integers(1, 3), max_size=2)
)
def test_padding_adds_zero_rows_and_never_takes_one_away(
    have: int, want: int, trailing: list[int]
) -> None:
    values = torch.randn(have, *trailing, generator=seeded())
    padded = pad_rows(values, want)
    assert padded.shape == (max(have, want), *trailing)
    assert torch.equal(padded[:have], values)
    assert not padded[have:].any()


def test_padding_keeps_the_type() -> None:
    assert pad_rows(torch.ones(1, dtype=torch.float64), 3).dtype == torch.float64
