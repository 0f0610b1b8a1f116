from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from physical.archive_file import ArchiveError, load_hospital, save_archive
from physical.batch import Batch
from physical.hospital import Arrival, Hospital

ARCHIVE = Batch(
    np.arange(20 * 4, dtype=np.uint8).reshape(20, 2, 2, 1),
    np.arange(20, dtype=np.int64) % 3,
    ("a", "b", "c"),
)
ARRIVALS = (
    Arrival(0, np.array([7, 3, 11])),
    Arrival(2, np.array([], np.int64)),
    Arrival(4, np.array([19, 0])),
)


def test_a_hospital_read_back_sees_the_same_images_at_the_same_time(tmp_path: Path) -> None:
    before = Hospital("north", ARCHIVE, ARRIVALS, 1)
    after = load_hospital(
        "north", save_archive(tmp_path / "archive.safetensors", ARCHIVE, ARRIVALS, 1)
    )
    assert (after.hospital_id, after.joins_at_round, after.vocabulary) == (
        "north",
        1,
        ("a", "b", "c"),
    )
    for since, until in ((-1, 0), (0, 3), (-1, 9), (4, 9)):
        seen, expected = (each.images(each.new_images(since, until)) for each in (after, before))
        assert (seen.images == expected.images).all() and (seen.labels == expected.labels).all()


def test_the_file_holds_the_hospitals_own_images_and_no_other(tmp_path: Path) -> None:
    path = save_archive(tmp_path / "archive.safetensors", ARCHIVE, ARRIVALS)
    content = path.read_bytes()
    for position in range(20):
        assert (ARCHIVE.images[position].tobytes() in content) == (position in (0, 3, 7, 11, 19))
    assert path.stat().st_mode & 0o077 == 0 and [each.name for each in tmp_path.iterdir()] == [
        "archive.safetensors"
    ]


def test_positions_keep_their_order(tmp_path: Path) -> None:
    hospital = load_hospital(
        "north", save_archive(tmp_path / "archive.safetensors", ARCHIVE, ARRIVALS)
    )
    assert hospital.new_images(-1, 0).tolist() == [2, 1, 3] and hospital.new_images(
        0, 9
    ).tolist() == [4, 0]


def test_a_hospital_without_images_can_be_saved_and_loaded(tmp_path: Path) -> None:
    hospital = load_hospital("west", save_archive(tmp_path / "archive.safetensors", ARCHIVE, ()))
    assert hospital.new_images(-1, 99).tolist() == []


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[:-3], lambda raw: b"\x80\x04pickle", lambda raw: raw[:8] + b"x" + raw[9:]],
)
def test_a_damaged_file_raises_an_archive_error(tmp_path: Path, damage: Callable[..., Any]) -> None:
    path = save_archive(tmp_path / "archive.safetensors", ARCHIVE, ARRIVALS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArchiveError, match="make it anew"):
        load_hospital("north", path)


def test_a_missing_file_raises_an_archive_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"archive\.safetensors"):
        load_hospital("north", tmp_path / "archive.safetensors")
