import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from twin.review.cases import Case, CaseImage, CaseSummary
from twin.review.store import CaseNotFound, Conflict, ReviewStore, StoreError
from twin.review.workflow import (
    ACTIONS,
    CLOSED,
    SYSTEM,
    Actor,
    CaseState,
    NotAllowed,
    Role,
    WorkflowError,
)

Images = Callable[..., list[CaseImage]]
People = dict[str, Actor]
LIFE = [
    ("open", "anna", {}),
    ("name", "anna", {"class_name": "pancreas"}),
    ("approve", "carl", {"reason": "looks right"}),
    ("start_training", "dora", {"training_id": "training-1"}),
    ("finish_training", "system", {"candidate_version": "8"}),
    ("release", "carl", {}),
    ("roll_back", "dora", {"reason": "liver got worse"}),
]


def live(
    store: ReviewStore, people: People, case_id: int, until: str, training: str = "training-1"
) -> Case:
    for action, user, facts in LIFE:
        named = facts | ({"training_id": training} if action == "start_training" else {})
        case = store.act(
            case_id, action, people.get(user, SYSTEM), hospital=None, **cast(Any, named)
        )
        if action == until:
            return case
    raise AssertionError(until)


@pytest.fixture
def case_id(store: ReviewStore, make_images: Images, summary: CaseSummary) -> int:
    return store.open_case("north", make_images(6), summary)


def test_a_new_case_is_as_it_was_detected(
    store: ReviewStore, case_id: int, summary: CaseSummary
) -> None:
    case = store.case("north", case_id)
    assert case == Case(
        case_id=case_id,
        hospital="north",
        state=CaseState.DETECTED,
        revision=1,
        opened="2031-05-06T07:08:09.000+00:00",
        changed="2031-05-06T07:08:09.000+00:00",
        class_name=None,
        named_by=None,
        summary=summary,
        num_images=6,
        num_selected=6,
        training_id=None,
        candidate_version=None,
        reason="",
    )


def test_images_come_back_as_they_were(
    store: ReviewStore, case_id: int, make_images: Images
) -> None:
    assert store.images(case_id).items == tuple(make_images(6))


def test_a_whole_life_is_kept_step_by_step(
    store: ReviewStore, case_id: int, people: People, clock: Any
) -> None:
    states = []
    for action, user, facts in LIFE:
        clock.pass_by(minutes=1)
        states.append(
            store.act(
                case_id, action, people.get(user, SYSTEM), hospital="north", **cast(Any, facts)
            ).state
        )
    assert states == [ACTIONS[action].target for action, _, _ in LIFE]
    case = store.case("north", case_id)
    assert (
        case.revision,
        case.class_name,
        case.named_by,
        case.training_id,
        case.candidate_version,
        case.reason,
    ) == (
        8,
        "pancreas",
        "anna",
        "training-1",
        "8",
        "liver got worse",
    )
    decisions = store.decisions(case_id)
    assert [(each.action, each.user, each.to_state) for each in decisions] == [
        (action, user, ACTIONS[action].target) for action, user, _ in LIFE
    ]
    assert [each.from_state for each in decisions] == [CaseState.DETECTED, *states[:-1]]
    assert [each.revision for each in decisions] == list(range(2, 9))
    assert [each.at for each in decisions] == [
        f"2031-05-06T07:{minute:02d}:09.000+00:00" for minute in range(9, 16)
    ]
    assert (decisions[2].reason, decisions[2].role, decisions[2].class_name) == (
        "looks right",
        Role.APPROVER,
        "pancreas",
    )


def test_each_act_has_its_audit_row(store: ReviewStore, case_id: int, people: People) -> None:
    live(store, people, case_id, "roll_back")
    entries = store.audit.entries().items[::-1]
    assert [entry.what for entry in entries] == [
        "case.detect",
        *(f"case.{action}" for action, _, _ in LIFE),
    ]
    assert [entry.actor for entry in entries] == ["system", *(user for _, user, _ in LIFE)]
    assert {entry.subject for entry in entries} == {f"case {case_id}"}
    assert {entry.hospital for entry in entries} == {"north"}
    assert entries[3].details["class_name"] == "pancreas"
    assert entries[3].details["num_selected"] == 6
    assert store.audit.verify() == []


def test_what_is_refused_leaves_no_trace(store: ReviewStore, case_id: int, people: People) -> None:
    before, head = store.case(None, case_id), store.audit.head()
    anna = people["anna"]
    refused = [
        (WorkflowError, "approve", people["carl"], {}),
        (NotAllowed, "open", people["carl"], {}),
        (WorkflowError, "reject", anna, {}),
        (CaseNotFound, "open", anna, {"hospital": "south"}),
        (Conflict, "open", anna, {"expected_revision": 2}),
        (StoreError, "open", anna, {"training_id": "t"}),
        (WorkflowError, "open", anna, {"class_name": "liver"}),
    ]
    for kind, action, actor, facts in refused:
        with pytest.raises(kind):
            store.act(case_id, action, actor, **{"hospital": "north"} | facts)  # type: ignore[operator]  # untyped
    assert (store.case(None, case_id), store.audit.head(), store.decisions(case_id)) == (
        before,
        head,
        [],
    )


def test_a_failed_audit_row_takes_its_act_with_it(
    store: ReviewStore, case_id: int, people: People, database: Path
) -> None:
    with sqlite3.connect(database) as raw:
        raw.execute(
            "CREATE TRIGGER no_more BEFORE INSERT ON review_audit BEGIN SELECT RAISE(ABORT, 'disk "
            "full'); END"
        )
    raw.close()
    with pytest.raises(Exception, match="disk full"):
        store.act(case_id, "open", people["anna"], hospital="north")
    assert store.case("north", case_id).state is CaseState.DETECTED
    assert store.decisions(case_id) == []


def test_the_second_person_is_held_by_the_store_too(
    store: ReviewStore, case_id: int, people: People
) -> None:
    live(store, people, case_id, "name")
    with pytest.raises(NotAllowed, match="anna named it"):
        store.act(case_id, "approve", Actor("anna", Role.APPROVER), hospital="north")
    live_on = store.act(case_id, "merge", people["berta"], hospital="north", class_name="liver")
    assert (live_on.named_by, live_on.class_name) == ("berta", "liver")
    assert (
        store.act(case_id, "approve", people["carl"], hospital="north").state is CaseState.APPROVED
    )
    store.act(case_id, "start_training", SYSTEM, hospital=None, training_id="t")
    store.act(case_id, "finish_training", SYSTEM, hospital=None)
    with pytest.raises(NotAllowed, match="berta named it"):
        store.act(case_id, "release", Actor("berta", Role.APPROVER), hospital="north")


@pytest.mark.parametrize("way_back", ["reopen", "send_back", "reject"])
def test_a_case_that_goes_back_has_no_name(
    store: ReviewStore, case_id: int, people: People, way_back: str
) -> None:
    live(store, people, case_id, "name")
    case = store.act(case_id, way_back, people["carl"], hospital="north", reason="noise")
    assert (case.class_name, case.named_by, case.reason) == (None, None, "noise")
    assert store.decisions(case_id)[1].class_name == "pancreas"


def test_a_training_that_fails_gives_its_cases_back(
    store: ReviewStore, case_id: int, people: People
) -> None:
    live(store, people, case_id, "start_training")
    assert [case.case_id for case in store.of_training("training-1")] == [case_id]
    case = store.act(case_id, "fail_training", SYSTEM, hospital=None, reason="process died")
    assert (case.state, case.training_id, case.reason) == (CaseState.APPROVED, None, "process died")
    assert store.of_training("training-1") == []


def test_a_reopened_case_holds_back_what_was_trained_with_it(
    store: ReviewStore, case_id: int, people: People, make_images: Images, summary: CaseSummary
) -> None:
    other = store.open_case("south", make_images(3), summary)
    for each in (case_id, other):
        live(store, people, each, "finish_training")
    store.act(other, "reopen", people["berta"], hospital="south", reason="wrong images")
    with pytest.raises(
        WorkflowError, match=f"trained together with case {other}, which is in_review"
    ):
        store.act(case_id, "release", people["carl"], hospital="north")
    live(store, people, store.open_case("west", make_images(3), summary), "release", "training-2")


def test_cases_of_one_training_are_released_one_after_another(
    store: ReviewStore, case_id: int, people: People, make_images: Images, summary: CaseSummary
) -> None:
    other = store.open_case("south", make_images(3), summary)
    for each in (case_id, other):
        live(store, people, each, "finish_training")
    assert {
        store.act(each, "release", people["dora"], hospital=None).state for each in (case_id, other)
    } == {CaseState.RELEASED}


def test_no_name_is_given_to_nothing(
    store: ReviewStore, case_id: int, people: People, make_images: Images
) -> None:
    store.act(case_id, "open", people["anna"], hospital="north")
    store.select(case_id, [image.image_id for image in make_images(6)], False, people["anna"])
    for action in ("name", "merge"):
        with pytest.raises(WorkflowError, match="no selected image"):
            store.act(case_id, action, people["anna"], hospital="north", class_name="liver")


def test_another_hospitals_case_does_not_exist(
    store: ReviewStore, case_id: int, people: People, make_images: Images
) -> None:
    asks = [
        lambda: store.case("south", case_id),
        lambda: store.images(case_id, hospital="south"),
        lambda: store.decisions(case_id, hospital="south"),
        lambda: store.selected_ids(case_id, hospital="south"),
        lambda: store.select(case_id, ["image-00000"], False, people["anna"], hospital="south"),
        lambda: store.add_images(case_id, make_images(1, start=50), hospital="south"),
        lambda: store.act(case_id, "open", people["anna"], hospital="south"),
        lambda: store.case("", case_id),
    ]
    for ask in asks:
        with pytest.raises(CaseNotFound):
            ask()
    messages = set()
    for missing in (case_id, case_id + 1):
        with pytest.raises(CaseNotFound) as refused:
            store.case("south", missing)
        messages.add(str(refused.value).replace(str(missing), "N"))
    assert len(messages) == 1


@pytest.mark.parametrize("case_id", [0, -1, 2**31, 2**63, 10**30])
def test_a_number_that_no_case_can_have_is_not_found(store: ReviewStore, case_id: int) -> None:
    with pytest.raises(CaseNotFound):
        store.case(None, case_id)


def test_cases_are_listed_last_changed_first(
    store: ReviewStore, people: People, make_images: Images, summary: CaseSummary, clock: Any
) -> None:
    made = []
    for index in range(7):
        clock.pass_by(minutes=1)
        made.append(
            store.open_case(
                "north" if index % 2 else "south", make_images(2, start=10 * index), summary
            )
        )
    clock.pass_by(minutes=1)
    store.act(made[3], "open", people["anna"], hospital="north")
    page = store.cases("north", per_page=2)
    assert ([row.case_id for row in page.items], page.total, page.num_pages) == (
        [made[3], made[5]],
        3,
        2,
    )
    assert [row.case_id for row in store.cases("north", page=2, per_page=2).items] == [made[1]]
    assert [row.case_id for row in store.cases(None, CaseState.IN_REVIEW).items] == [made[3]]
    assert store.cases("west").items == ()
    assert store.counts(None) == {
        state: {"detected": 6, "in_review": 1}.get(state, 0) for state in CaseState
    }
    assert store.counts("south")[CaseState.DETECTED] == 4
    row = store.cases("north").items[0]
    assert (row.mean_entropy, row.nearest, row.representative) == (
        summary.mean_entropy,
        summary.nearest,
        summary.representative,
    )
    store.act(made[3], "name", people["anna"], hospital="north", class_name="liver")
    store.act(made[3], "approve", people["carl"], hospital="north")
    store.act(made[3], "start_training", SYSTEM, hospital=None, training_id="t")
    assert [row.case_id for row in store.cases(None, training_id="t").items] == [made[3]]


def test_a_page_beyond_the_end_is_the_last_one(store: ReviewStore, case_id: int) -> None:
    for asked, got in ((-3, 1), (0, 1), (1, 1), (2, 2), (9, 2), (10**30, 2)):
        page = store.images(case_id, asked, 4)
        assert (page.page, len(page.items)) == (got, {1: 4, 2: 2}[got])
    assert store.cases("west", page=5).page == 1
    for wrong in (0, -1, 10**6):
        with pytest.raises(ValueError, match="per_page"):
            store.images(case_id, 1, wrong)


def test_only_files_are_databases_of_sqlite() -> None:
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"):
        with pytest.raises(ValueError, match="allowed: sqlite:///FILE"):
            ReviewStore(url)


def test_a_database_is_its_owners_alone(store: ReviewStore, case_id: int, database: Path) -> None:
    for file in database.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file.name


def test_cases_survive_opening_again(
    store: ReviewStore, case_id: int, url: str, people: People
) -> None:
    live(store, people, case_id, "approve")
    again = ReviewStore(url)
    assert again.case("north", case_id) == store.case("north", case_id)
    assert again.decisions(case_id) == store.decisions(case_id)
    assert again.audit.verify() == []


def test_every_closed_state_frees_its_images_and_no_other(
    store: ReviewStore, people: People, make_images: Images, summary: CaseSummary, database: Path
) -> None:
    case_id = store.open_case("north", make_images(2), summary)
    for action, user, facts in [
        ("reject", "anna", {"reason": "noise"}),
        ("reopen", "anna", {"reason": "not noise"}),
        *LIFE[1:],
    ]:
        state = store.act(
            case_id, action, people.get(user, SYSTEM), hospital="north", **cast(Any, facts)
        ).state
        raw = sqlite3.connect(database)
        assert raw.execute("SELECT DISTINCT open FROM review_image").fetchall() == [
            (state not in CLOSED,)
        ]
        raw.close()


def test_the_console_is_opened_without_torch() -> None:
    code = "import sys, twin.review.store, twin.review.accounts; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not set(done.stdout.split()) & {
        "torch",
        "numpy",
        "mlflow",
        "monai",
        "pytorch_grad_cam",
        "fastapi",
    }


def test_details_of_an_act_are_json_for_everybody(
    store: ReviewStore, case_id: int, people: People
) -> None:
    store.act(case_id, "open", people["anna"], hospital="north")
    assert json.loads(json.dumps(store.audit.entries().items[0].details))["to_state"] == "in_review"
