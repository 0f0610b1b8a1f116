from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from physical.hospital import Hospital
from physical.mirror import Mirror, MirrorImage
from physical.mirror_hospital import MirrorHospital, StreamError


def image(number: int, name: str | None) -> MirrorImage:
    pixels = np.full((16, 16), number, np.uint8)
    return MirrorImage(f"i{number}", "2026-11-22T08:00:00+00:00", "p", "s", name, pixels, "png")


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    one = Mirror(tmp_path / "mirror", 16)
    yield one
    one.close()


def seen(hospital: MirrorHospital, positions: NDArray[Any]) -> list[tuple[Any, ...]]:
    batch = hospital.images(positions)
    return [
        (int(each[0, 0, 0]), batch.vocabulary[label])
        for each, label in zip(batch.images, batch.labels, strict=True)
    ]


def test_a_named_image_arrives_once_in_the_round_that_finds_it(
    mirror: Mirror, tmp_path: Path
) -> None:
    hospital = MirrorHospital("north", mirror, tmp_path / "stream.jsonl")
    assert isinstance(hospital, Hospital)
    assert hospital.new_images(-1, 0).tolist() == []
    assert list(hospital.vocabulary) == []
    mirror.add([image(1, "liver"), image(2, None), image(3, "spleen")])
    first = hospital.new_images(0, 1)
    assert seen(hospital, first) == [(1, "liver"), (3, "spleen")]
    assert hospital.vocabulary == ("liver", "spleen")
    mirror.add([image(4, "heart")])
    mirror.set_class_name(["i2"], "liver")  # an older image that is named later comes later
    later = hospital.new_images(1, 2)
    assert seen(hospital, later) == [(2, "liver"), (4, "heart")] and later.tolist() == [2, 3]
    assert seen(hospital, first) == [(1, "liver"), (3, "spleen")]
    assert (
        hospital.new_images(-1, 2).tolist() == [0, 1, 2, 3]
        and hospital.new_images(2, 3).tolist() == []
    )


def test_a_round_that_is_repeated_finds_the_same_images_also_after_a_restart(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.add([image(1, "liver")])
    before = MirrorHospital("north", mirror, tmp_path / "stream.jsonl").new_images(-1, 5)
    mirror.add([image(2, "liver")])
    again = MirrorHospital("north", mirror, tmp_path / "stream.jsonl")
    assert again.new_images(-1, 5).tolist() == before.tolist() == [0]
    assert again.new_images(5, 6).tolist() == [1]


def test_an_image_has_its_current_name_and_keeps_its_old_one_if_it_is_withdrawn(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.add([image(1, "liver"), image(2, "spleen")])
    hospital = MirrorHospital("north", mirror, tmp_path / "stream.jsonl")
    both = hospital.new_images(-1, 0)
    mirror.set_class_name(["i1"], "heart")
    hospital.new_images(0, 1)
    assert seen(hospital, both) == [(1, "heart"), (2, "spleen")]
    mirror.set_class_name(["i1"], None)  # the sender's word counts again
    hospital.new_images(1, 2)
    assert seen(hospital, both) == [(1, "liver"), (2, "spleen")]
    assert [hospital.vocabulary[label] for label in hospital.labels(both)] == ["liver", "spleen"]


def test_more_images_than_one_query_returns_are_all_read(mirror: Mirror, tmp_path: Path) -> None:
    mirror.add(
        [
            image(number % 200, "liver") if number < 200 else image(number, "liver")
            for number in range(250)
        ]
    )
    hospital = MirrorHospital("north", mirror, tmp_path / "stream.jsonl")
    positions = np.tile(hospital.new_images(-1, 0), 5)
    assert len(hospital.images(positions)) == 1250


def test_a_damaged_stream_file_raises_a_stream_error(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "stream.jsonl").write_text('{"round": 1')
    with pytest.raises(StreamError, match="restore it from a backup"):
        MirrorHospital("north", mirror, tmp_path / "stream.jsonl")
