import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

import federation.flare.event_feed as room
from federation.flare.event_feed import (
    FEED,
    STATUS,
    Activity,
    aggregated,
    read_feed,
    read_status,
    sentence,
    stand,
)

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
BEGIN = {
    "event": "state",
    "state": "running",
    "experiment": "e",
    "hospitals": ["north", "south"],
    "num_rounds": 4,
    "run_id": "r",
}
RECORD = {
    "kind": "round",
    "round": 7,
    "accepted": ["north", "south", "east"],
    "rejected": [{"twin": "west", "reason": "holds values that are not finite"}],
    "chosen": ["north", "south", "east", "west", "far"],
    "grew": ["heart"],
    "accuracy": 0.5,
    "num_classes": 4,
    "seconds": 1.5,
}


def absent(hospital: str, stage: str = "train", suspect: bool = False) -> dict[str, Any]:
    return {
        "event": "absent",
        "hospital": hospital,
        "stage": stage,
        "round": 3,
        "reason": "raised OSError",
        "suspect": suspect,
    }


def answered(stage: str, *names: Any) -> dict[str, Any]:
    return {"event": stage, "round": 4, "asked": ["north", "south"], "answered": list(names)}


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            {"event": "state", "state": "waiting", "reason": "for hospitals"},
            "waiting: for hospitals",
        ),
        ({"event": "state", "state": "finished"}, "finished"),
        (
            {"event": "hello", "hospital": "north", "last_round": 3},
            "north is here; its twin's last round is 3",
        ),
        (
            {"event": "hello", "hospital": "north", "last_round": -1},
            "north is here; its twin begins anew",
        ),
        (
            {"event": "round", "round": 2, "present": ["a", "b"], "suspects": ["c"]},
            "round 2 begins with 2 hospitals; suspect: c",
        ),
        (absent("north"), "north, round 3, train: raised OSError"),
        (answered("observe", "north"), "round 4: 1 of 2 hospitals looked at their data"),
        (answered("train", "north", "south"), "round 4: 2 of 2 hospitals trained"),
        (
            aggregated(RECORD),
            "round 7 aggregated, 4 of 5 hospitals returned, 1 turned away (west holds values that "
            "are not finite); new: heart",
        ),
    ],
)
def test_every_event_has_its_sentence(event: dict[str, Any], said: str) -> None:
    assert sentence(event) == said


def test_what_is_no_round_is_no_event() -> None:
    assert aggregated({"kind": "task"}) is None


def test_where_things_stand_follows_from_what_happened() -> None:
    status: dict[Any, Any] = {}
    for event in (
        BEGIN,
        {"event": "hello", "hospital": "north", "last_round": -1},
        absent("south", suspect=True),
        aggregated(RECORD),
    ):
        status = stand(status, cast(Any, event))
    assert (status["state"], status["rounds_done"], status["rejected"], status["num_rounds"]) == (
        "running",
        8,
        1,
        4,
    )
    assert status["hospitals"]["north"]["state"] == "present"
    assert (status["hospitals"]["south"]["state"], status["hospitals"]["south"]["reason"]) == (
        "suspect",
        "raised OSError",
    )


def test_who_cannot_train_stays_faulty_though_it_looks_at_its_data() -> None:
    status = stand(stand({}, absent("north")), answered("observe", "north", "south"))
    assert (status["hospitals"]["north"]["state"], status["hospitals"]["north"]["last_round"]) == (
        "faulty",
        4,
    )
    status = stand(status, answered("train", "north"))
    assert (
        status["hospitals"]["north"] | {"state": "present", "reason": ""}
        == status["hospitals"]["north"]
    )


def test_a_suspect_that_answers_is_present_again() -> None:
    status = stand(stand({}, absent("north", suspect=True)), answered("observe", "north"))
    assert status["hospitals"]["north"]["state"] == "present"


def test_to_take_note_changes_nothing_that_was_there_before() -> None:
    before = stand({}, BEGIN)
    copy = json.loads(json.dumps(before))
    stand(before, absent("north"))
    assert before == copy


def test_feed_and_status_can_be_read_at_any_time(tmp_path: Path) -> None:
    activity = Activity(tmp_path, lambda: NOON)
    for event in (BEGIN, absent("north"), aggregated(RECORD)):
        activity.tell(cast(Any, event))
    with (tmp_path / FEED).open("a") as lines:
        lines.write('{"event": "sta')  # being written
    assert [each["event"] for each in read_feed(tmp_path, 10)] == ["state", "absent", "aggregated"]
    assert read_feed(tmp_path, 2)[-1]["at"] == "2026-11-22T12:00:00+00:00"
    assert (
        read_status(tmp_path)["rounds_done"] == 8
        and read_status(tmp_path)["updated"] == "2026-11-22T12:00:00+00:00"
    )
    assert Activity(tmp_path).status["rounds_done"] == 8  # another session goes on from it
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted((FEED, STATUS))


def test_before_anything_has_happened_there_is_nothing_to_read(tmp_path: Path) -> None:
    assert read_status(tmp_path) == {} and read_feed(tmp_path, 5) == []


def test_a_feed_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_MOST_BYTES", 1000)
    activity = Activity(tmp_path, lambda: NOON)
    for _ in range(40):
        activity.tell(absent("north"))
    assert (tmp_path / FEED).stat().st_size < 1500 and (tmp_path / "activity.old.jsonl").exists()
