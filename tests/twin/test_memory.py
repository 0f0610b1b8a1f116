import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from twin.memory import ExemplarMemory, herd


def features_of(count: int, width: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def icarl(features: Tensor, count: int) -> list[int]:
    """Algorithm 4 of iCaRL as it is written, except that a chosen image is not chosen again."""
    unit = [row / np.linalg.norm(row) for row in features.double().numpy()]
    mean = sum(unit) / len(unit)
    chosen: list[int] = []
    for step in range(1, min(count, len(unit)) + 1):
        best, best_distance = -1, np.inf
        for candidate in range(len(unit)):
            if candidate in chosen:
                continue
            distance = float(
                np.linalg.norm(
                    mean - (unit[candidate] + sum(unit[other] for other in chosen)) / step
                )
            )
            if distance < best_distance:
                best, best_distance = candidate, distance
        chosen.append(best)
    return chosen


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 4, 12, 40])
def test_herding_is_that_of_icarl_without_replacement(seed: int, count: int) -> None:
    features = features_of(12, seed=seed)
    assert herd(features, count).tolist() == icarl(features, count)


@given(
    size=st.integers(0, 30),
    count=st.integers(0, 40),
    width=st.integers(1, 4),
    seed=st.integers(0, 99),
    dead=st.booleans(),
)
def test_herding_chooses_existing_images_and_each_at_most_once(
    size: int, count: int, width: int, seed: int, dead: bool
) -> None:
    features = features_of(size, width, seed) * (0 if dead else 1)
    chosen = herd(features, count)
    assert chosen.dtype == np.int64
    assert len(set(chosen.tolist())) == len(chosen) == min(size, count)
    assert set(chosen.tolist()) <= set(range(size))


@given(fewer=st.integers(0, 10), more=st.integers(10, 15))
def test_a_smaller_choice_is_the_beginning_of_a_larger_one(fewer: int, more: int) -> None:
    features = features_of(15)
    assert herd(features, fewer).tolist() == herd(features, more)[:fewer].tolist()


def test_the_length_of_features_does_not_matter() -> None:
    scale = torch.linspace(0.1, 10, 12)[:, None]
    assert herd(features_of(12), 6).tolist() == herd(features_of(12) * scale, 6).tolist()


def ranked(names: list[str], images_each: int, start: int = 0) -> dict[str, NDArray[np.int64]]:
    return {
        name: np.arange(start + index * images_each, start + (index + 1) * images_each)
        for index, name in enumerate(names)
    }


def test_exemplars_per_class_fall_as_in_the_paper() -> None:
    memory, room = ExemplarMemory(2000), []
    for task in range(9):
        memory = memory.with_classes(
            ranked([f"{task}-{index}" for index in range(6)], 500, task * 3000)
        )
        assert len({len(positions) for positions in memory.positions.values()}) == 1
        room.append(len(memory.positions["0-0"]))
        assert len(memory) <= 2000
    assert room == [333, 166, 111, 83, 66, 55, 47, 41, 37]
    assert memory.positions["0-0"].tolist() == list(range(37))


def test_a_class_never_has_more_exemplars_than_images() -> None:
    memory = ExemplarMemory(2000).with_classes(ranked(["a", "b", "c"], 500))
    assert [len(positions) for positions in memory.positions.values()] == [500, 500, 500]


@given(
    capacity=st.integers(0, 60),
    tasks=st.lists(
        st.lists(st.tuples(st.integers(0, 8), st.integers(0, 20)), max_size=3), max_size=5
    ),
)
def test_memory_never_exceeds_its_capacity_and_keeps_the_best(
    capacity: int, tasks: list[list[tuple[int, int]]]
) -> None:
    memory, start = ExemplarMemory(capacity), 0
    latest: dict[str, NDArray[np.int64]] = {}
    for task in tasks:
        new = {
            f"class-{label}": np.arange(start + 100 * label, start + 100 * label + count)
            for label, count in task
        }
        start += 1000
        memory = memory.with_classes(new)
        latest |= new
        assert len(memory) <= capacity
        assert memory.positions.keys() == latest.keys()
        positions = memory.all_positions()
        assert len(set(positions.tolist())) == len(positions) == len(memory)
        for name, kept in memory.positions.items():
            assert kept.tolist() == latest[name][: len(kept)].tolist()
            assert len(kept) <= memory.per_class(len(latest))


def test_taking_classes_in_leaves_the_memory_as_it_was() -> None:
    before = ExemplarMemory(4).with_classes(ranked(["a"], 4))
    after = before.with_classes(ranked(["b"], 4, 4))
    assert len(before.positions["a"]) == 4
    assert after.all_positions().tolist() == [0, 1, 4, 5]


def test_an_empty_memory_has_no_positions() -> None:
    assert len(ExemplarMemory(10)) == 0
    assert ExemplarMemory(10).all_positions().dtype == np.int64
    assert ExemplarMemory(10).per_class(0) == 10
