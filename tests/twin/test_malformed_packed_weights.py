from typing import Any, cast

import pytest
import torch

from incremental.weight_tensors import parameters_of
from tests.twin.packed_examples import generator, moved, some_weights
from twin.compression import CompressionConfig, CompressionError, PackedWeights, pack, unpack


def test_a_residual_of_another_network_is_one_clear_error() -> None:
    reference = some_weights()
    for residual in (
        {"head.bias": torch.zeros(3)},
        {name: torch.zeros(1) for name in parameters_of(reference)},
    ):
        with pytest.raises(CompressionError, match="belongs to another network"):
            pack(reference, reference, CompressionConfig("int8"), residual, generator())


def test_packing_with_kind_none_is_refused() -> None:
    with pytest.raises(CompressionError, match="'none', which packs nothing"):
        pack(some_weights(), some_weights(), CompressionConfig(), {}, generator())


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused_by_top_k(share: float) -> None:
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
