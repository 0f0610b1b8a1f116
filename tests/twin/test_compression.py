from math import ceil
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from incremental.head import grow_head
from incremental.weight_tensors import parameters_of
from tests.twin.packed_examples import (
    BOTH,
    KINDS,
    changes,
    generator,
    moved,
    pack_and_unpack,
    same,
    some_weights,
)
from twin.compression import CompressionConfig, pack, unpack


def test_parameters_are_floating_tensors_without_statistics_of_batch_normalisation() -> None:
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
    seen, _, packed = pack_and_unpack(
        weights, reference, CompressionConfig(kind, error_feedback=feedback)
    )
    assert seen.keys() == reference.keys()
    for name in reference.keys() - set(parameters_of(reference)):
        assert torch.equal(seen[name], weights[name]) and torch.equal(
            packed.tensors[f"exact/{name}"], weights[name]
        )


def test_float16_equals_a_slow_loop_over_numbers() -> None:
    reference = some_weights()
    weights = moved(reference, 1)
    seen, left, packed = pack_and_unpack(weights, reference, CompressionConfig("float16"))
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
    seen, left, _ = pack_and_unpack(weights, reference, CompressionConfig("float16"))
    assert seen["weight"].tolist() == [65504.0, -65504.0, 2.0]
    assert left["weight"].tolist() == [1e5 - 65504, -1e6 + 65504, 0.0]


def test_top_k_sends_the_largest_changes_of_the_whole_model_and_remembers_the_others() -> None:
    reference = some_weights()
    weights = moved(reference, 5)
    share = 0.03
    seen, left, packed = pack_and_unpack(weights, reference, CompressionConfig("top_k", share))
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
        seen, residual, _ = pack_and_unpack(
            weights, reference, CompressionConfig(kind, 0.05), residual
        )
        for name in sent:
            true[name] += weights[name].double() - reference[name].double()
            sent[name] += seen[name].double() - reference[name].double()
        reference = seen  # the next round starts where the server stands
    for name, total in true.items():
        assert torch.allclose(sent[name] + residual[name].double(), total, atol=1e-5)
    assert any(bool(value.any()) for value in residual.values())


def test_a_steady_change_arrives_in_full_only_with_error_feedback() -> None:
    change = torch.linspace(0.001, 1, 200)
    arrived = {}
    for feedback in (True, False):
        total, residual = torch.zeros(200), {}  # type: ignore[var-annotated]  # any
        for _ in range(400):
            seen, residual, _ = pack_and_unpack(
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
    _, residual, _ = pack_and_unpack(moved(small, 1), small, CompressionConfig(kind))
    grown = grow_head(small, 2, generator(9))
    weights = moved(grown, 2)
    padded = {name: torch.zeros_like(grown[name]) for name in residual}
    for name, value in residual.items():
        padded[name][: len(value)] = value
    implicit, explicit = (
        pack_and_unpack(weights, grown, CompressionConfig(kind), each)
        for each in (residual, padded)
    )
    assert same(implicit[0], explicit[0]) and same(implicit[1], explicit[1])
    assert implicit[1]["head.weight"].shape == grown["head.weight"].shape


@pytest.mark.parametrize(("kind", "feedback"), BOTH)
def test_unpacking_is_repeatable_and_does_not_depend_on_the_order_of_names(
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
    _, residual, _ = pack_and_unpack(moved(reference, 3), reference, CompressionConfig(kind))
    given_before = [
        {name: value.clone() for name, value in each.items()}
        for each in (weights, reference, residual)
    ]
    one, two = (
        pack_and_unpack(
            weights, reference, CompressionConfig(kind, error_feedback=feedback), residual, seed=4
        )
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


@given(
    st.sampled_from(BOTH),
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30),
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=30, max_size=30),
    st.floats(0.01, 1),
)
def test_any_change_arrives_within_its_error_and_the_residual_is_the_rest(
    how: tuple[Any, ...], values: list[float], origin: list[float], share: float
) -> None:
    kind, feedback = how
    reference = {"bias": torch.tensor(origin[: len(values)], dtype=torch.float32)}
    weights = {"bias": torch.tensor(values, dtype=torch.float32)}
    seen, left, _ = pack_and_unpack(weights, reference, CompressionConfig(kind, share, feedback))
    assert bool(torch.isfinite(seen["bias"]).all())
    if feedback:
        assert torch.allclose(seen["bias"] + left["bias"], weights["bias"], atol=0.02)
        assert (
            float(left["bias"].norm())
            <= float((weights["bias"] - reference["bias"]).norm()) * 1.001 + 1e-3
        )
