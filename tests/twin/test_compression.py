from math import ceil
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from incremental.head import grow_head
from incremental.network import NetworkConfig, initial_weights
from incremental.weight_tensors import parameters_of
from twin.compression import (
    CompressionConfig,
    CompressionError,
    PackedWeights,
    pack,
    unpack,
)

KINDS = ("float16", "int8", "top_k")
BOTH = [(kind, feedback) for kind in KINDS for feedback in (True, False)]
NORMED = NetworkConfig(backbone="resnet18", width=4, image_size=16, channels=1, norm="batch")


def generator(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def some_weights(rows: int = 3) -> dict[str, Tensor]:
    return grow_head(initial_weights(NORMED, 1), rows, generator())


def moved(reference: dict[str, Tensor], seed: int, size: float = 0.1) -> dict[str, Tensor]:
    """Return weights a random change away; statistics and counters have followed the data."""
    draws = generator(seed)
    weights = {}
    for name, value in reference.items():
        step = size * torch.randn(value.shape, generator=draws)
        weights[name] = value + step if value.is_floating_point() else value + 7
    return weights


def changes(weights: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weights[name] - reference[name] for name in parameters_of(reference)}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def go(
    weights: dict[str, Tensor],
    reference: dict[str, Tensor],
    config: CompressionConfig,
    residual: dict[str, Any] | None = None,
    seed: int = 0,
) -> tuple[Any, ...]:
    packed, left = pack(weights, reference, config, residual or {}, generator(seed))
    return unpack(packed, reference), left, packed


def test_what_training_moves_are_floating_tensors_without_statistics_of_batch_normalisation() -> (
    None
):
    reference = some_weights()
    names = sorted(parameters_of(reference))
    assert list(names) == sorted(names)
    assert {name for name in reference if name not in names} == {
        name
        for name in reference
        if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")
    }


@pytest.mark.parametrize(("kind", "feedback"), BOTH)
def test_statistics_and_counters_travel_exactly(kind: Any, feedback: bool) -> None:
    reference = some_weights()
    weights = moved(reference, 1, size=1e6)
    seen, _, packed = go(weights, reference, CompressionConfig(kind, error_feedback=feedback))
    assert seen.keys() == reference.keys()
    for name in reference.keys() - set(parameters_of(reference)):
        assert torch.equal(seen[name], weights[name]) and torch.equal(
            packed.tensors[f"exact/{name}"], weights[name]
        )


def test_float16_is_a_slow_loop_over_numbers() -> None:
    reference = some_weights()
    weights = moved(reference, 1)
    seen, left, packed = go(weights, reference, CompressionConfig("float16"))
    for name, change in changes(weights, reference).items():
        for index in range(min(change.numel(), 20)):
            sent = float(torch.tensor(float(change.flatten()[index])).to(torch.float16))
            assert float(seen[name].flatten()[index]) == pytest.approx(
                float(reference[name].flatten()[index]) + sent, abs=1e-7
            )
            assert float(left[name].flatten()[index]) == float(change.flatten()[index]) - sent
    assert packed.tensors["values"].dtype == torch.float16


def test_float16_of_a_huge_change_is_the_largest_half_and_the_rest_is_sent_later() -> None:
    reference = {"weight": torch.zeros(3)}
    weights = {"weight": torch.tensor([1e5, -1e6, 2.0])}
    seen, left, _ = go(weights, reference, CompressionConfig("float16"))
    assert seen["weight"].tolist() == [65504.0, -65504.0, 2.0]
    assert left["weight"].tolist() == [1e5 - 65504, -1e6 + 65504, 0.0]


def test_int8_with_memory_rounds_to_the_nearest_step_of_each_output_channel() -> None:
    reference = some_weights()
    weights = moved(reference, 2)
    seen, left, packed = go(weights, reference, CompressionConfig("int8"))
    assert packed.tensors["values"].dtype == torch.int8
    scales = iter(packed.tensors["scales"].tolist())
    for name, change in (
        (name, changes(weights, reference)[name]) for name in sorted(changes(weights, reference))
    ):
        channels = list(change) if change.ndim > 1 else [change]
        for channel, sent, rest in zip(
            channels,
            list(seen[name] - reference[name])
            if change.ndim > 1
            else [seen[name] - reference[name]],
            list(left[name]) if change.ndim > 1 else [left[name]],
            strict=True,
        ):
            scale = max(abs(float(value)) for value in channel.flatten()) / 127
            assert next(scales) == pytest.approx(scale, rel=1e-6)
            for value, arrived, remembered in zip(
                channel.flatten()[:9], sent.flatten()[:9], rest.flatten()[:9], strict=True
            ):
                expected = round(float(value) / scale) * scale
                assert float(arrived) == pytest.approx(expected, abs=2e-6)
                assert float(remembered) == pytest.approx(float(value) - expected, abs=2e-6)
                assert abs(float(remembered)) <= scale / 2 + 1e-7


def test_int8_without_memory_is_right_in_expectation() -> None:
    reference = {"head.weight": torch.zeros(2, 50)}
    weights = {"head.weight": torch.randn(2, 50, generator=generator(3))}
    config = CompressionConfig("int8", error_feedback=False)
    draws = 2000
    mean = (
        sum(
            go(weights, reference, config, seed=seed)[0]["head.weight"].double()
            for seed in range(draws)
        )
        / draws
    )
    scale = weights["head.weight"].abs().amax(1, keepdim=True) / 127
    # One draw is off by less than a step, with a standard deviation of at most half of one; five of
    # the mean's are allowed.
    assert bool(((mean - weights["head.weight"]).abs() < 5 * scale / 2 / draws**0.5).all())


def test_int8_without_memory_lands_on_one_of_the_two_neighbouring_steps() -> None:
    reference, weights = (
        {"bias": torch.zeros(200)},
        {"bias": torch.randn(200, generator=generator(4))},
    )
    _, left, packed = go(weights, reference, CompressionConfig("int8", error_feedback=False))
    steps = weights["bias"] / packed.tensors["scales"]
    whole = packed.tensors["values"].float()
    assert left == {}
    assert bool(((whole == steps.floor()) | (whole == steps.ceil())).all())
    assert bool((whole == steps.floor()).any()) and bool((whole == steps.ceil()).any())


def test_int8_of_no_change_is_no_change() -> None:
    reference = some_weights()
    seen, left, _ = go(reference, reference, CompressionConfig("int8"))
    assert same(seen, reference)
    assert all(not bool(value.any()) for value in left.values())


def test_top_k_sends_the_largest_changes_of_the_whole_model_and_remembers_the_others() -> None:
    reference = some_weights()
    weights = moved(reference, 5)
    share = 0.03
    seen, left, packed = go(weights, reference, CompressionConfig("top_k", share))
    flat = sorted(
        (
            (abs(float(value)), name, place)
            for name, change in changes(weights, reference).items()
            for place, value in enumerate(change.flatten())
        ),
        reverse=True,
    )
    chosen = {(name, place) for _, name, place in flat[: ceil(share * len(flat))]}
    assert packed.tensors["indices"].dtype == torch.int32 and len(packed.tensors["indices"]) == len(
        chosen
    )
    for name, change in changes(weights, reference).items():
        for place, value in enumerate(change.flatten()):
            sent = float(value.half()) if (name, place) in chosen else 0.0
            assert float(left[name].flatten()[place]) == float(value) - sent
            if (name, place) not in chosen:
                assert float(seen[name].flatten()[place]) == float(reference[name].flatten()[place])


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_sent_and_the_last_residual_are_the_sum_of_all_true_changes(kind: Any) -> None:
    reference, residual = some_weights(), {}  # type: ignore[var-annotated]  # any
    sent = {
        name: torch.zeros_like(reference[name], dtype=torch.float64)
        for name in parameters_of(reference)
    }
    true = {name: torch.zeros_like(each) for name, each in sent.items()}
    for turn in range(12):
        weights = moved(reference, turn)
        seen, residual, _ = go(weights, reference, CompressionConfig(kind, 0.05), residual)
        for name in sent:
            true[name] += weights[name].double() - reference[name].double()
            sent[name] += seen[name].double() - reference[name].double()
        reference = seen  # the next round starts where the server stands
    for name, total in true.items():
        assert torch.allclose(sent[name] + residual[name].double(), total, atol=1e-5)
    assert any(bool(value.any()) for value in residual.values())


def test_with_memory_a_steady_change_arrives_in_full_and_without_it_most_of_it_never_does() -> None:
    change = torch.linspace(0.001, 1, 200)
    arrived = {}
    for feedback in (True, False):
        total, residual = torch.zeros(200), {}  # type: ignore[var-annotated]  # any
        for _ in range(400):
            seen, residual, _ = go(
                {"bias": change},
                {"bias": torch.zeros(200)},
                CompressionConfig("top_k", 0.05, feedback),
                residual,
            )
            total += seen["bias"]
        arrived[feedback] = total / 400
    assert torch.allclose(arrived[True], change, atol=0.03)
    assert int((arrived[False] == 0).sum()) == 190


@pytest.mark.parametrize("kind", KINDS)
def test_a_residual_from_before_the_head_grew_counts_zero_in_the_new_rows(kind: Any) -> None:
    small = some_weights(2)
    _, residual, _ = go(moved(small, 1), small, CompressionConfig(kind))
    grown = grow_head(small, 2, generator(9))
    weights = moved(grown, 2)
    padded = {name: torch.zeros_like(grown[name]) for name in residual}
    for name, value in residual.items():
        padded[name][: len(value)] = value
    implicit, explicit = (
        go(weights, grown, CompressionConfig(kind), each) for each in (residual, padded)
    )
    assert same(implicit[0], explicit[0]) and same(implicit[1], explicit[1])
    assert implicit[1]["head.weight"].shape == grown["head.weight"].shape


def test_a_residual_of_another_network_is_one_clear_error() -> None:
    reference = some_weights()
    for residual in (
        {"head.bias": torch.zeros(3)},
        {name: torch.zeros(1) for name in parameters_of(reference)},
    ):
        with pytest.raises(CompressionError, match="belongs to another network"):
            pack(reference, reference, CompressionConfig("int8"), residual, generator())


@pytest.mark.parametrize(("kind", "feedback"), BOTH)
def test_unpacking_is_the_same_twice_and_for_whoever_has_the_names_in_another_order(
    kind: Any, feedback: bool
) -> None:
    reference = some_weights()
    packed, _ = pack(
        moved(reference, 1),
        reference,
        CompressionConfig(kind, error_feedback=feedback),
        {},
        generator(),
    )
    shuffled = dict(sorted(reference.items(), reverse=True))
    assert same(unpack(packed, reference), unpack(packed, reference))
    assert same(unpack(packed, reference), unpack(packed, shuffled))
    assert {name: value.dtype for name, value in unpack(packed, reference).items()} == {
        name: value.dtype for name, value in reference.items()
    }


@pytest.mark.parametrize(("kind", "feedback"), BOTH)
def test_packing_is_repeatable_and_changes_nothing_it_was_given(kind: Any, feedback: bool) -> None:
    reference = some_weights()
    weights = moved(reference, 1)
    _, residual, _ = go(moved(reference, 3), reference, CompressionConfig(kind))
    given_before = [
        {name: value.clone() for name, value in each.items()}
        for each in (weights, reference, residual)
    ]
    one, two = (
        go(weights, reference, CompressionConfig(kind, error_feedback=feedback), residual, seed=4)
        for _ in range(2)
    )
    assert same(one[0], two[0]) and same(one[1], two[1])
    assert all(
        same(now, before)
        for now, before in zip((weights, reference, residual), given_before, strict=True)
    )


def test_bytes_are_a_half_a_quarter_and_six_bytes_for_each_change_that_is_sent() -> None:
    reference = some_weights()
    count = sum(reference[name].numel() for name in parameters_of(reference))
    sizes = {}
    for kind in KINDS:
        packed, _ = pack(
            moved(reference, 1), reference, CompressionConfig(cast(Any, kind)), {}, generator()
        )
        own = {
            name: value for name, value in packed.tensors.items() if not name.startswith("exact/")
        }
        sizes[kind] = sum(value.numel() * value.element_size() for value in own.values())
    assert sizes["float16"] == 2 * count
    assert count < sizes["int8"] < 1.1 * count
    assert sizes["top_k"] == 6 * ceil(0.01 * count)


def test_packing_into_nothing_is_refused() -> None:
    with pytest.raises(CompressionError, match="'none', which packs nothing"):
        pack(some_weights(), some_weights(), CompressionConfig(), {}, generator())


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="allowed: above 0 and up to 1"):
        CompressionConfig("top_k", share)


def replaced(packed: PackedWeights, **tensors: Any) -> PackedWeights:
    return PackedWeights(packed.kind, {**packed.tensors, **tensors})


def without(packed: PackedWeights, name: str) -> PackedWeights:
    return PackedWeights(
        packed.kind, {key: value for key, value in packed.tensors.items() if key != name}
    )


REFERENCE = {
    "head.weight": torch.zeros(4, 5),
    "head.bias": torch.zeros(4),
    "norm.running_var": torch.ones(3),
}
COUNT = 24
BROKEN = {
    "another kind": (
        "int8",
        lambda packed: PackedWeights("pickle", packed.tensors),
        "kind 'pickle'",
    ),
    "no kind": ("int8", lambda packed: PackedWeights("none", packed.tensors), "kind 'none'"),
    "a missing tensor": (
        "int8",
        lambda packed: without(packed, "scales"),
        "other tensors than expected: scales",
    ),
    "no values": ("top_k", lambda packed: without(packed, "values"), "other tensors"),
    "a tensor too many": (
        "float16",
        lambda packed: replaced(packed, extra=torch.zeros(1)),
        "other tensors than expected: extra",
    ),
    "too few values": (
        "float16",
        lambda packed: replaced(packed, values=torch.zeros(COUNT - 1).half()),
        "allowed: torch.float16",
    ),
    "too many values": (
        "int8",
        lambda packed: replaced(packed, values=torch.zeros(COUNT + 1).to(torch.int8)),
        "allowed: torch.int8",
    ),
    "values of another type": (
        "int8",
        lambda packed: replaced(packed, values=torch.zeros(COUNT)),
        "is torch.float32",
    ),
    "values in a square": (
        "top_k",
        lambda packed: replaced(packed, values=torch.zeros(1, 1).half()),
        r"\(1, 1\); allowed",
    ),
    "an infinite scale": (
        "int8",
        lambda packed: replaced(packed, scales=torch.full((5,), torch.inf)),
        "scales holds numbers that are not",
    ),
    "a scale that is no number": (
        "int8",
        lambda packed: replaced(packed, scales=torch.full((5,), torch.nan)),
        "not finite",
    ),
    "values that are no numbers": (
        "float16",
        lambda packed: replaced(packed, values=torch.full((COUNT,), torch.nan).half()),
        "not finite",
    ),
    "one scale too few": (
        "int8",
        lambda packed: replaced(packed, scales=torch.zeros(4)),
        r"scales is torch.float32 \(4,\)",
    ),
    "an index beyond the end": (
        "top_k",
        lambda packed: replaced(packed, indices=torch.tensor([COUNT], dtype=torch.int32)),
        "rising",
    ),
    "an index below zero": (
        "top_k",
        lambda packed: replaced(packed, indices=torch.tensor([-1], dtype=torch.int32)),
        "rising",
    ),
    "indices of another type": (
        "top_k",
        lambda packed: replaced(packed, indices=torch.tensor([1])),
        "is torch.int64",
    ),
    "an index twice": (
        "top_k",
        lambda packed: replaced(
            packed, indices=torch.tensor([3, 3], dtype=torch.int32), values=torch.zeros(2).half()
        ),
        "rising",
    ),
    "no change at all": (
        "top_k",
        lambda packed: replaced(
            packed, indices=torch.zeros(0, dtype=torch.int32), values=torch.zeros(0).half()
        ),
        "hold 0 changes; allowed: 1 to 24",
    ),
    "more changes than parameters": (
        "top_k",
        lambda packed: replaced(
            packed, indices=torch.arange(25, dtype=torch.int32), values=torch.zeros(25).half()
        ),
        "hold 25 changes",
    ),
    "more indices than values": (
        "top_k",
        lambda packed: replaced(packed, indices=torch.arange(3, dtype=torch.int32)),
        r"\(3,\); allowed",
    ),
    "a statistic of another shape": (
        "int8",
        lambda packed: replaced(packed, **{"exact/norm.running_var": torch.ones(2)}),
        "exact/norm",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_packed_weights_from_outside_that_are_malformed_are_one_clear_error(case: str) -> None:
    kind, damage, text = BROKEN[case]
    packed, _ = pack(
        moved(REFERENCE, 1), REFERENCE, CompressionConfig(cast(Any, kind)), {}, generator()
    )
    unpack(packed, REFERENCE)
    with pytest.raises(CompressionError, match=text):
        unpack(damage(packed), REFERENCE)


@given(
    st.sampled_from(BOTH),
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30),
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=30, max_size=30),
    st.floats(0.01, 1),
)
def test_any_change_arrives_within_its_error_and_what_is_left_is_what_did_not(
    how: tuple[Any, ...], values: list[float], origin: list[float], share: float
) -> None:
    kind, feedback = how
    reference = {"bias": torch.tensor(origin[: len(values)], dtype=torch.float32)}
    weights = {"bias": torch.tensor(values, dtype=torch.float32)}
    seen, left, _ = go(weights, reference, CompressionConfig(kind, share, feedback))
    assert bool(torch.isfinite(seen["bias"]).all())
    if feedback:
        assert torch.allclose(seen["bias"] + left["bias"], weights["bias"], atol=0.02)
        assert (
            float(left["bias"].norm())
            <= float((weights["bias"] - reference["bias"]).norm()) * 1.001 + 1e-3
        )
