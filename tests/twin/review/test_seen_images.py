import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from twin.review.novelty_scores import Looks
from twin.review.seen_images import FILE_NAME, SeenImages, Verdict, alone


def looks_of(count: int, start: int = 0) -> Looks:
    values = np.arange(start, start + count, dtype=np.float32)
    return Looks(np.repeat(values[:, None], 3, 1), np.repeat(-values[:, None], 2, 1))


@pytest.fixture
def judged(tmp_path: Path) -> Iterator[SeenImages]:
    judged = SeenImages(tmp_path, "one")
    yield judged
    judged.close()


def test_what_was_seen_comes_back_and_is_not_asked_again(judged: SeenImages) -> None:
    judged.keep(["a", "b"], Verdict.NEW, looks_of(2))
    asked = []

    def look(ids: list[str]) -> Looks:
        asked.extend(ids)
        return looks_of(len(ids), start=7)

    for _ in range(2):
        looks = judged.looks(["b", "c", "a", "c"], cast(Any, look))
        assert looks.features[:, 0].tolist() == [1, 7, 0, 7]
        assert looks.logits[:, 0].tolist() == [-1, -7, 0, -7]
    assert asked == ["c"]
    assert judged.judged_ids() == {"a", "b"}  # looking for comparison is no verdict


def test_of_the_familiar_only_the_verdict_is_kept(judged: SeenImages) -> None:
    judged.keep(["a"], Verdict.FAMILIAR)
    assert judged.ids(Verdict.FAMILIAR) == ["a"]
    assert judged.looks(["a"], lambda ids: looks_of(1, 5)).features.tolist() == [[5, 5, 5]]


def test_a_verdict_changes_and_what_was_seen_stays(judged: SeenImages) -> None:
    judged.keep(["a", "b"], Verdict.NEW, looks_of(2))
    judged.change(["b"], Verdict.DECIDED, 12)
    assert judged.decided() == {"b": 12}
    judged.change(["b"], Verdict.NEW)
    assert judged.decided() == {}
    assert judged.looks(["b"], lambda ids: looks_of(1, 99)).features[0, 0] == 1


@pytest.mark.parametrize(("frame", "left"), [("one", {"a"}), ("two", set())])
def test_another_frame_forgets_all(
    tmp_path: Path, judged: SeenImages, frame: str, left: set[Any]
) -> None:
    judged.keep(["a"], Verdict.NEW, looks_of(1))
    judged.settle("done")
    judged.close()
    again = SeenImages(tmp_path, frame)
    assert again.judged_ids() == left
    assert again.settled == ("done" if left else None)
    again.close()


def test_more_images_than_a_statement_takes(judged: SeenImages) -> None:
    ids = [f"image-{index}" for index in range(1203)]
    assert judged.looks(ids, lambda part: looks_of(len(part))).features.shape == (1203, 3)
    assert judged.looks(ids, lambda part: looks_of(0)).features.shape == (1203, 3)


def test_a_file_that_is_no_memory_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"something else, and long enough for a header " * 9)
    with pytest.raises(sqlite3.DatabaseError):
        SeenImages(tmp_path, "one")
    assert (tmp_path / FILE_NAME).read_bytes().startswith(b"something else")


def test_one_holds_the_lock_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path) as first:
        assert first
        with alone(tmp_path) as second:
            assert not second
    with alone(tmp_path) as third:
        assert third
