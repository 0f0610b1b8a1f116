from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from federation.flare.weight_cache import (
    Acknowledged,
    GroupCache,
    KnownDigests,
    MissingGroups,
    digest_of,
)

WEIGHTS = {"w": torch.tensor([1.0, 2.0])}


def of_bytes(count: int) -> dict[str, Tensor]:
    return {"w": torch.zeros(count, dtype=torch.uint8)}


def test_the_digest_is_that_of_the_safetensors_file(tmp_path: Path) -> None:
    safetensors.torch.save_file(WEIGHTS, tmp_path / "model.safetensors")
    assert digest_of(WEIGHTS) == sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"v": torch.tensor([1.0, 2.0])},
        {"w": torch.tensor([1.0, -2.0])},
        {"w": torch.tensor([[1.0, 2.0]])},
        {"w": torch.tensor([1.0, 2.0]).view(torch.int32)},
        {"w": torch.tensor([1.0, 2.0]), "v": torch.zeros(0)},
        {},
    ],
    ids=["name", "value", "shape", "type", "one more", "nothing"],
)
def test_another_name_value_shape_or_type_is_another_digest(other: dict[str, Any]) -> None:
    assert digest_of(other) != digest_of(WEIGHTS)


def test_the_layout_in_memory_is_no_part_of_the_digest() -> None:
    picture = torch.rand(2, 3, 4, 5)
    assert digest_of({"w": picture}) == digest_of(
        {"w": picture.to(memory_format=torch.channels_last)}
    )


@given(data=st.data())
def test_equal_weights_have_equal_digests(data: Any, any_tensor: Any) -> None:
    tensor = data.draw(any_tensor)
    assert digest_of({"w": tensor}) == digest_of({"w": tensor.clone()})


def test_known_digests_are_digests_and_the_last_few_are_remembered() -> None:
    known, models = KnownDigests(most=2), [of_bytes(count) for count in range(4)]
    for model in (*models, *models):
        assert known(model) == digest_of(model)
    models[3]["w"] = torch.ones(3)  # which nobody may do: it shows that the answer was remembered
    assert known(models[3]) == digest_of(of_bytes(3))


def test_a_cache_keeps_what_was_used_last_and_fits() -> None:
    cache = GroupCache(100)
    for name in "abc":
        cache[name] = of_bytes(40)
    assert sorted(cache) == ["b", "c"] and cache.num_bytes == 80
    assert cache["b"] is not None
    cache["d"] = of_bytes(40)
    assert sorted(cache) == ["b", "d"]


def test_a_group_larger_than_the_cache_is_not_kept_and_drives_nothing_out() -> None:
    cache = GroupCache(100)
    cache["a"], cache["b"] = of_bytes(40), of_bytes(101)
    assert list(cache) == ["a"]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 60)), max_size=30))
def test_a_cache_never_holds_more_than_it_may(steps: list[Any]) -> None:
    cache = GroupCache(100)
    for name, count in steps:
        cache[name] = of_bytes(count)
        assert cache.num_bytes <= 100 and name in cache
    for name in list(cache):
        del cache[name]
    assert len(cache) == 0


def test_a_cache_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="most_bytes is -1"):
        GroupCache(-1)


def test_what_a_receiver_acknowledged_is_noted_for_it_alone() -> None:
    noted = Acknowledged(most=2)
    noted.note("north", ["a", "b"])
    noted.note("north", ["a", "c"])
    assert noted.by("north") == {"a", "c"} and noted.by("south") == frozenset()
    noted.forget("north", ["a", "x"])
    assert noted.by("north") == {"c"}
    noted.forget("north")
    assert noted.by("north") == frozenset()


def test_what_is_missing_is_said_in_short_and_held_in_full() -> None:
    missing = MissingGroups(("a" * 64, "b" * 64))
    assert missing.digests == ("a" * 64, "b" * 64) and "a" * 12 + ", " + "b" * 12 + "," in str(
        missing
    )
