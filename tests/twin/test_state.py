import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from twin.memory import ExemplarMemory
from twin.privacy.differential_privacy import PrivacySpent
from twin.state import TwinState, from_plain, to_plain


def full_state() -> TwinState:
    return TwinState(
        memory=ExemplarMemory(9, {"liver": np.array([5, 3, 8]), "heart": np.array([1])}),
        observed_until=7,
        inbox=np.array([11, 12]),
        current=np.array([20, 21, 22]),
        held_back=np.array([30]),
        began_round=4,
        task=3,
        current_names=("lung", "spleen"),
        finished=(("liver",), ("heart",)),
        previous_mean=0.1 + 0.2,
        fresh_task=True,
        kept={"control/head.bias": torch.tensor([1.5, 2.5])},
        entropy_history=((0, 1.0, True), (3, 0.25, False)),
        events=({"round": 0, "what": "joined the federation"},),
        model_round=6,
        model_names=("liver", "heart", "lung"),
        privacy=(PrivacySpent(1.1, 0.1 + 0.2, 40, False), PrivacySpent(0.5, 1.0, 3, True)),
    )


def assert_equal(found: TwinState, expected: TwinState) -> None:
    for field in fields(TwinState):
        mine, theirs = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(theirs, np.ndarray):
            assert mine.dtype == np.int64
            assert mine.tolist() == theirs.tolist()
        elif field.name == "memory":
            assert mine.capacity == theirs.capacity
            assert list(mine.positions) == list(theirs.positions)
            assert all(
                mine.positions[name].tolist() == each.tolist()
                for name, each in theirs.positions.items()
            )
        elif field.name == "kept":
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[name], each) for name, each in theirs.items())
        else:
            assert mine == theirs
            assert type(mine) is type(theirs)


@pytest.mark.parametrize(
    "state", [full_state(), TwinState(ExemplarMemory(0))], ids=["full", "newborn"]
)
def test_a_state_survives_the_way_through_json_and_safetensors(state: TwinState) -> None:
    plain, tensors = to_plain(state)
    restored = from_plain(
        json.loads(json.dumps(plain)),
        load(save({name: value.contiguous() for name, value in tensors.items()})),
    )
    assert_equal(restored, state)
    assert_equal(from_plain(*to_plain(restored)), state)


def test_a_state_written_before_privacy_was_counted_can_be_read() -> None:
    plain, tensors = to_plain(full_state())
    del plain["privacy"]
    assert from_plain(plain, tensors).privacy == ()


def test_every_field_of_the_full_state_differs_from_its_default() -> None:
    newborn = TwinState(ExemplarMemory(0))
    for field in fields(TwinState):
        assert str(getattr(full_state(), field.name)) != str(getattr(newborn, field.name)), (
            field.name
        )


def test_a_restored_state_does_not_share_the_memory_it_came_from() -> None:
    state = full_state()
    plain, tensors = to_plain(state)
    tensors["memory/0"][0] = 99
    assert state.memory.positions["liver"].tolist() == [5, 3, 8]
    assert plain["memory_names"] == ["liver", "heart"]
