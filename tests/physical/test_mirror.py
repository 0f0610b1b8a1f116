import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from physical import mirror as room
from physical.mirror import DayCount, ImageFacts, Mirror, MirrorError, MirrorImage

SIZE = 8
NOON = "2024-02-19T12:00:00+00:00"


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(tmp_path / "mirror", SIZE)


def image(number: int, class_name: str | None = None, arrived: str = NOON) -> MirrorImage:
    return MirrorImage(
        f"image{number}",
        arrived,
        "patient",
        "study",
        class_name,
        np.full((SIZE, SIZE), number % 256, np.uint8),
        "dicom",
    )


def test_images_come_back_as_they_went_in_and_in_the_order_asked(mirror: Mirror) -> None:
    assert mirror.add([image(3), image(1), image(2)]) == 3
    assert mirror.ids() == ["image3", "image1", "image2"]
    assert mirror.pixels(["image2", "image3", "image2"])[:, 0, 0].tolist() == [2, 3, 2]
    assert mirror.facts(["image1"]) == [
        ImageFacts("image1", NOON, "patient", "study", None, "dicom")
    ]


def test_adding_twice_adds_once_and_changes_nothing(mirror: Mirror) -> None:
    mirror.add([image(1, "liver")])
    again = replace(image(1, "spleen"), pixels=np.zeros((SIZE, SIZE), np.uint8))
    assert mirror.add([again, image(2), image(2)]) == 1
    assert len(mirror) == 2
    assert mirror.facts(["image1"])[0].class_name == "liver"
    assert mirror.pixels(["image1"]).max() == 1


def test_one_invalid_image_prevents_all_of_a_call(mirror: Mirror) -> None:
    for bad in (
        replace(image(2), pixels=np.zeros((SIZE, SIZE + 1), np.uint8)),
        replace(image(2), pixels=np.zeros((SIZE, SIZE), np.float32)),
        replace(image(2), image_id=""),
        replace(image(2), class_name=" liver"),
        replace(image(2), class_name=""),
        replace(image(2), arrived="yesterday"),
        replace(image(2), arrived="2024-02-19T12:00:00"),
        replace(image(2), arrived="2024-02-19T12:00:00+02:00"),
    ):
        with pytest.raises(MirrorError, match="expected"):
            mirror.add([image(1), bad])
    assert len(mirror) == 0


def test_named_unnamed_and_later_images_are_told_apart(mirror: Mirror) -> None:
    mirror.add([image(1, "liver"), image(2), image(3, "spleen"), image(4)])
    assert mirror.ids(named=True) == ["image1", "image3"]
    assert mirror.ids(named=False) == ["image2", "image4"]
    assert mirror.ids(after="image2") == ["image3", "image4"]
    assert mirror.ids(named=False, after="image2") == ["image4"]
    with pytest.raises(MirrorError, match="no image nobody"):
        mirror.ids(after="nobody")


def test_a_withdrawn_decision_restores_the_senders_name(mirror: Mirror) -> None:
    mirror.add([image(1, "liver"), image(2), image(3)])
    mirror.set_class_name(["image1", "image2"], "spleen")
    assert mirror.class_counts() == {"spleen": 2}
    assert [facts.class_name for facts in mirror.facts(["image1", "image2", "image3"])] == [
        "spleen",
        "spleen",
        None,
    ]
    mirror.set_class_name(["image1", "image2"], None)
    assert mirror.class_counts() == {"liver": 1}
    assert mirror.ids(named=False) == ["image2", "image3"]


def test_a_name_is_set_for_all_images_or_none(mirror: Mirror) -> None:
    mirror.add([image(number) for number in range(1200)])
    with pytest.raises(MirrorError, match="no image nobody"):
        mirror.set_class_name([*mirror.ids(), "nobody"], "liver")
    assert mirror.class_counts() == {}
    mirror.set_class_name(mirror.ids() + mirror.ids(), "liver")
    assert mirror.class_counts() == {"liver": 1200}
    with pytest.raises(MirrorError, match="class name"):
        mirror.set_class_name(["image1"], "  ")


def test_counts_by_day_and_class(mirror: Mirror) -> None:
    tomorrow = "2024-02-20T00:00:00.123+00:00"
    mirror.add([image(1, "liver"), image(2, "liver"), image(3), image(4, "liver", tomorrow)])
    assert mirror.class_counts() == {"liver": 3}
    assert mirror.counts_by_day() == [
        DayCount("2024-02-19", None, 1),
        DayCount("2024-02-19", "liver", 2),
        DayCount("2024-02-20", "liver", 1),
    ]


def test_unknown_ids_are_named(mirror: Mirror) -> None:
    mirror.add([image(1)])
    for ask in (mirror.pixels, mirror.facts):
        with pytest.raises(MirrorError, match=r"no image a, b, c and 1 more"):
            ask(["image1", "a", "b", "c", "d"])


def test_one_call_returns_a_limited_amount_of_pixels(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_BYTES_PER_READ", 3 * SIZE * SIZE)
    mirror.add([image(number) for number in range(4)])
    assert len(mirror.pixels(mirror.ids()[:3])) == 3
    with pytest.raises(MirrorError, match="ask for them in parts"):
        mirror.pixels(mirror.ids())


def test_empty_requests_have_empty_results(mirror: Mirror) -> None:
    assert mirror.add([]) == 0
    assert mirror.pixels([]).shape == (0, SIZE, SIZE)
    assert mirror.facts([]) == []
    mirror.set_class_name([], "liver")


def test_a_mirror_keeps_its_size_and_can_be_opened_without_knowing_it(mirror: Mirror) -> None:
    mirror.add([image(1)])
    with pytest.raises(
        MirrorError, match=f"it holds images of {SIZE}; open it with image_size={SIZE}"
    ):
        Mirror(mirror.folder, 64)
    again = Mirror.open_existing(mirror.folder)
    assert again.image_size == SIZE
    assert again.ids() == ["image1"]


def test_a_closed_mirror_opens_itself_again(mirror: Mirror) -> None:
    mirror.add([image(1)])
    mirror.close()
    assert mirror.ids() == ["image1"]


def test_threads_share_one_mirror(mirror: Mirror) -> None:
    faults: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for number in range(first, first + 20):
                mirror.add([image(number)])
                assert mirror.pixels([f"image{number}"])[0, 0, 0] == number % 256
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(100 * part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(mirror) == 80


def _add_own(folder: Path, first: int) -> None:
    mirror = Mirror(folder, SIZE)
    for number in range(first, first + 20):
        mirror.add([image(number), image(7)])  # one of them is everybody's


def test_processes_that_open_a_new_mirror_together_share_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_add_own, args=(tmp_path / "mirror", 100 * part))
        for part in range(1, 4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(Mirror.open_existing(tmp_path / "mirror")) == 61


def test_a_forked_process_opens_its_own_connection(
    mirror: Mirror, in_fork: Callable[[Callable[[], object]], int]
) -> None:
    mirror.add([image(1)])
    assert in_fork(lambda: mirror.add([image(2)])) == 0
    mirror.add([image(3)])
    assert mirror.ids() == ["image1", "image2", "image3"]


@pytest.fixture
def in_fork() -> Callable[[Callable[[], object]], int]:
    def run(work: Callable[[], object]) -> int:
        child = os.fork()
        if child == 0:
            try:
                work()
            except BaseException:
                os._exit(1)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run


@given(st.lists(st.lists(st.integers(0, 15), max_size=6), max_size=6))
def test_order_is_that_of_first_arrival_whatever_comes_again(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]]
) -> None:
    mirror = Mirror(tmp_path_factory.mktemp("mirror"), SIZE)
    new = sum(mirror.add([image(number) for number in batch]) for batch in batches)
    first = list(dict.fromkeys(f"image{number}" for batch in batches for number in batch))
    assert mirror.ids() == first
    assert new == len(first) == len(mirror)
