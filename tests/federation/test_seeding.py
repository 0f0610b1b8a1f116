from hypothesis import given
from hypothesis import strategies as st

from federation.seeding import seed_for

names = st.lists(st.text(alphabet="abc-0123456789", max_size=4) | st.integers(-9, 9), max_size=4)


@given(seed=st.integers(0, 2**63 - 1), path=names)
def test_a_seed_fits_numpy_and_torch(seed: int, path: list[str | int]) -> None:
    assert 0 <= seed_for(seed, *path) < 2**63


@given(seed=st.integers(0, 99), other_seed=st.integers(0, 99), path=names, other_path=names)
def test_two_streams_are_the_same_only_if_they_have_the_same_name(
    seed: int, other_seed: int, path: list[str | int], other_path: list[str | int]
) -> None:
    same = seed == other_seed and [str(each) for each in path] == [str(each) for each in other_path]
    assert (seed_for(seed, *path) == seed_for(other_seed, *other_path)) == same


def test_names_do_not_run_into_each_other() -> None:
    assert seed_for(1, "ab", "c") != seed_for(1, "a", "bc") != seed_for(1, "abc")
    assert seed_for(1, "train", 12) != seed_for(1, "train", 1, 2)
    assert seed_for(1, 2) != seed_for(12)


def test_a_stream_is_the_same_on_every_machine() -> None:
    assert seed_for(1, "train", 7, "hospital-003") == 1131786829272623898
