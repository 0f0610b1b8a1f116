import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from twin.review.cases import CaseImage, CaseSummary
from twin.review.store import CaseNotFound, Conflict, ReviewStore, StoreError
from twin.review.workflow import Actor, CaseState, NotAllowed, WorkflowError

Images = Callable[..., list[CaseImage]]
People = dict[str, Actor]


@pytest.fixture
def case_id(store: ReviewStore, make_images: Images, summary: CaseSummary) -> int:
    return store.open_case("north", make_images(6), summary)


def ids(images: list[CaseImage]) -> list[str]:
    return [image.image_id for image in images]


@pytest.mark.parametrize("order", ["arrived", "entropy", "distance"])
def test_each_order_holds_over_pages(
    store: ReviewStore, make_images: Images, summary: CaseSummary, order: str
) -> None:
    images = make_images(23)
    key = {
        "arrived": lambda image: image.arrived,
        "entropy": lambda image: -image.entropy,
        "distance": lambda image: image.distance,
    }[order]
    case_id = store.open_case("north", images[::-1], summary)
    paged = [image for page in range(1, 6) for image in store.images(case_id, page, 5, order).items]
    assert [key(image) for image in paged] == sorted(map(key, images))
    assert sorted(ids(paged)) == ids(images)


def test_images_are_counted_by_the_day_on_which_they_came(
    store: ReviewStore, make_images: Images, summary: CaseSummary
) -> None:
    days = ("2024-02-19", "2024-02-20", "2024-03-01")
    images = [
        replace(image, arrived=f"{days[index % 3 % 2]}T0{index}:00:00+00:00")
        for index, image in enumerate(make_images(6))
    ]
    images.append(replace(make_images(1, start=6)[0], arrived=f"{days[2]}T23:59:59+00:00"))
    case_id = store.open_case("north", images, summary)
    store.open_case("south", make_images(4), summary)
    assert store.days(case_id) == [(days[0], 4), (days[1], 2), (days[2], 1)]
    with pytest.raises(CaseNotFound):
        store.days(case_id, hospital="south")


def test_all_images_of_a_case_are_listed_whether_they_count_or_not(
    store: ReviewStore, case_id: int, people: People
) -> None:
    store.select(case_id, ["image-00001"], False, people["anna"])
    assert store.ids(case_id) == [f"image-{index:05d}" for index in range(6)]
    with pytest.raises(CaseNotFound):
        store.ids(case_id, hospital="south")


def test_an_unknown_order_is_refused(store: ReviewStore, case_id: int) -> None:
    with pytest.raises(StoreError, match="order is 'size'; known: arrived, entropy, distance"):
        store.images(case_id, order="size")


def test_selecting_counts_what_changed(store: ReviewStore, case_id: int, people: People) -> None:
    anna = people["anna"]
    case = store.select(
        case_id, ["image-00001", "image-00004", "image-00001"], False, anna, hospital="north"
    )
    assert (case.num_selected, case.num_images, case.revision) == (4, 6, 2)
    assert store.selected_ids(case_id) == [f"image-{index:05d}" for index in (0, 2, 3, 5)]
    assert store.select(case_id, ["image-00001"], False, anna).revision == 2
    assert store.select(case_id, ["image-00001"], True, anna).num_selected == 5
    assert [image.selected for image in store.images(case_id).items] == [
        True,
        True,
        True,
        True,
        False,
        True,
    ]
    assert store.select(case_id, [], False, anna).revision == 3
    entry = store.audit.entries().items[1]
    assert (entry.what, entry.actor, entry.details["num"], entry.details["selected"]) == (
        "case.select",
        "anna",
        2,
        False,
    )


def test_an_image_that_is_not_in_the_case_cannot_be_selected(
    store: ReviewStore, case_id: int, people: People
) -> None:
    for wrong in ("image-00099", "", "\ud800", "'; --"):
        with pytest.raises(StoreError, match="1 of the images are not in case"):
            store.select(case_id, ["image-00001", wrong], False, people["anna"])
    assert store.case(None, case_id).num_selected == 6


def test_a_selection_is_a_clinicians_until_the_case_is_named(
    store: ReviewStore, case_id: int, people: People
) -> None:
    with pytest.raises(NotAllowed, match="allowed: a clinician"):
        store.select(case_id, ["image-00001"], False, people["carl"])
    store.act(case_id, "open", people["anna"], hospital="north")
    store.select(case_id, ["image-00001"], False, people["berta"])
    store.act(case_id, "name", people["anna"], hospital="north", class_name="pancreas")
    with pytest.raises(WorkflowError, match="while it is detected or in_review"):
        store.select(case_id, ["image-00001"], True, people["anna"])


def test_who_saw_another_selection_is_told(
    store: ReviewStore, case_id: int, people: People
) -> None:
    seen = store.act(case_id, "open", people["anna"], hospital="north").revision
    store.select(case_id, ["image-00001"], False, people["berta"])
    with pytest.raises(Conflict, match=f"you saw revision {seen}, it is {seen + 1}"):
        store.act(
            case_id,
            "name",
            people["anna"],
            hospital="north",
            class_name="liver",
            expected_revision=seen,
        )
    store.act(
        case_id,
        "name",
        people["anna"],
        hospital="north",
        class_name="liver",
        expected_revision=seen + 1,
    )


def test_the_audit_tells_two_selections_apart(
    store: ReviewStore, case_id: int, people: People
) -> None:
    digests: list[Any] = []
    for dropped in ("image-00001", "image-00002"):
        store.act(case_id, "open", people["anna"], hospital="north") if not digests else None
        store.select(case_id, [dropped], False, people["anna"])
        store.act(case_id, "name", people["anna"], hospital="north", class_name="liver")
        digests.append(store.audit.entries().items[0].details["digest"])
        store.act(case_id, "reopen", people["anna"], hospital="north", reason="once more")
        store.select(case_id, [dropped], True, people["anna"])
    assert digests[0] != digests[1]


def test_adding_images_is_idempotent(
    store: ReviewStore, case_id: int, make_images: Images, summary: CaseSummary
) -> None:
    case = store.add_images(case_id, make_images(8, start=4))
    assert (case.num_images, case.num_selected, case.revision) == (12, 12, 2)
    assert store.add_images(case_id, make_images(12)) == case
    assert store.add_images(case_id, []) == case
    assert store.images(case_id).total == 12
    assert store.image_ids("north") == frozenset(ids(make_images(12)))


def test_a_grown_case_can_get_a_new_summary(
    store: ReviewStore, case_id: int, make_images: Images, summary: CaseSummary
) -> None:
    from dataclasses import replace

    newer = replace(summary, num_images=7, mean_entropy=0.9)
    assert store.add_images(case_id, make_images(7), newer).summary == newer
    assert store.case("north", case_id).summary == newer


def test_images_added_unselected_do_not_count(
    store: ReviewStore, case_id: int, make_images: Images
) -> None:
    from dataclasses import replace

    case = store.add_images(
        case_id, [replace(image, selected=False) for image in make_images(2, start=6)]
    )
    assert (case.num_images, case.num_selected) == (8, 6)


def test_a_named_case_takes_no_images(
    store: ReviewStore, case_id: int, make_images: Images, people: People
) -> None:
    store.act(case_id, "open", people["anna"], hospital="north")
    store.add_images(case_id, make_images(1, start=6))
    store.act(case_id, "name", people["anna"], hospital="north", class_name="liver")
    with pytest.raises(WorkflowError, match="takes no images; allowed: detected, in_review"):
        store.add_images(case_id, make_images(1, start=7))


def test_an_image_is_in_one_open_case(
    store: ReviewStore, case_id: int, make_images: Images, summary: CaseSummary, database: Path
) -> None:
    other = store.open_case("north", make_images(6, start=3), summary)
    assert store.case("north", other).num_images == 3
    assert store.open_case("north", make_images(9), summary) == case_id
    assert store.open_case("north", make_images(1, start=7), summary) == other
    assert store.add_images(case_id, make_images(9)).num_images == 6
    assert store.cases("north").total == 2
    raw = sqlite3.connect(database)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        raw.execute(
            "UPDATE review_image SET image_id = 'image-00000' WHERE image_id = 'image-00008'"
        )
    raw.close()


def test_another_hospital_may_have_an_image_of_the_same_name(
    store: ReviewStore, case_id: int, make_images: Images, summary: CaseSummary
) -> None:
    other = store.open_case("south", make_images(6), summary)
    assert store.case("south", other).num_images == 6
    assert store.image_ids("south") == store.image_ids("north") == frozenset(ids(make_images(6)))
    assert store.image_ids("west") == frozenset()


def test_an_image_twice_in_one_call_is_one(
    store: ReviewStore, make_images: Images, summary: CaseSummary
) -> None:
    assert store.case(None, store.open_case("north", make_images(3) * 2, summary)).num_images == 3
    assert store.add_images(1, make_images(2, start=3) * 2).num_images == 5


def test_a_case_needs_an_image(store: ReviewStore, summary: CaseSummary) -> None:
    with pytest.raises(StoreError, match="no images"):
        store.open_case("north", [], summary)


def test_a_rejected_cases_images_may_be_in_another_one(
    store: ReviewStore, case_id: int, make_images: Images, summary: CaseSummary, people: People
) -> None:
    store.act(case_id, "reject", people["anna"], hospital="north", reason="artefact: a clip")
    assert len(store.image_ids("north")) == 6
    other = store.open_case("north", make_images(2), summary)
    assert other != case_id
    with pytest.raises(Conflict, match=f"images of it are in case {other} by now"):
        store.act(case_id, "reopen", people["anna"], hospital="north", reason="no clip")
    assert store.case(None, case_id).state is CaseState.REJECTED
    store.act(other, "reject", people["anna"], hospital="north", reason="noise")
    assert (
        store.act(case_id, "reopen", people["anna"], hospital="north", reason="no clip").state
        is CaseState.IN_REVIEW
    )


@pytest.fixture
def large(store: ReviewStore, make_images: Images, summary: CaseSummary) -> int:
    for other in range(3):
        store.open_case("north", make_images(2000, start=10_000 * (other + 1)), summary)
    return store.open_case("north", make_images(2000), summary)


def processor_seconds(what: Callable[[], object], tries: int = 5) -> float:
    # not the clock on the wall: others may use this machine
    times = []
    for _ in range(tries):
        began = time.process_time()
        what()
        times.append(time.process_time() - began)
    return min(times)


def test_a_case_of_2000_images_opens_at_once(store: ReviewStore, large: int) -> None:
    def open_page() -> None:
        store.case("north", large)
        for order in ("arrived", "entropy", "distance"):
            store.images(large, 1, 60, order, hospital="north")
        store.decisions(large)

    assert processor_seconds(open_page) < 0.1
    assert processor_seconds(lambda: store.images(large, 33, 60)) < 0.1
    assert processor_seconds(lambda: store.cases("north")) < 0.1


def test_2000_images_are_deselected_in_one_go(
    store: ReviewStore, large: int, make_images: Images, people: People
) -> None:
    assert store.select(large, ids(make_images(2000)), False, people["anna"]).num_selected == 0
    assert store.selected_ids(large) == []


def test_pages_of_images_are_read_through_an_index(
    store: ReviewStore, large: int, database: Path
) -> None:
    raw = sqlite3.connect(database)
    wanted = [
        f"review_image WHERE case_id = 1 ORDER BY {column}, image_id"
        for column in ("arrived", "entropy", "distance")
    ]
    wanted += [
        f"review_case WHERE {which} ORDER BY changed DESC, case_id DESC"
        for which in ("hospital = 'north'", "state = 'named'")
    ]
    for each in wanted:
        plan = raw.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {each} LIMIT 9").fetchall()
        assert len(plan) == 1
        assert "USING INDEX" in plan[0][3]
    raw.close()
