import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from twin.review.cases import CaseImage, CaseSummary
from twin.review.store import Conflict, ReviewStore
from twin.review.workflow import Actor, CaseState

Images = Callable[..., list[CaseImage]]
People = dict[str, Actor]

ACT = """
import sys
from twin.review.store import Conflict, ReviewStore
from twin.review.workflow import Actor, Role

url, case_id, user, revision = sys.argv[1:]
store = ReviewStore(url)
print("ready", flush=True)
sys.stdin.readline()
try:
    store.act(int(case_id), "name", Actor(user, Role.CLINICIAN), hospital="north",
              class_name=user, expected_revision=int(revision))
    print("won")
except Conflict as error:
    print("conflict:", error)
"""


def test_of_two_processes_that_act_on_a_case_one_wins(
    store: ReviewStore, url: str, make_images: Images, summary: CaseSummary, people: People
) -> None:
    case_id = store.open_case("north", make_images(50), summary)
    revision = store.act(case_id, "open", people["anna"], hospital="north").revision
    command = [sys.executable, "-c", ACT, url, str(case_id)]
    processes = [
        subprocess.Popen(
            [*command, user, str(revision)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        for user in ("anna", "berta")
    ]
    assert [cast(Any, process.stdout).readline() for process in processes] == ["ready\n", "ready\n"]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        assert process.stdin is not None
        process.stdin.flush()
    said = {process.communicate()[0].split(":")[0].strip() for process in processes}
    assert said == {"won", "conflict"}
    case = store.case("north", case_id)
    assert (case.state, case.revision) == (CaseState.NAMED, revision + 1)
    assert case.class_name == case.named_by
    assert [each.action for each in store.decisions(case_id)] == ["open", "name"]
    assert store.audit.verify() == []


def in_threads(*tasks: Callable[[], object]) -> list[object]:
    start, results = threading.Barrier(len(tasks)), [None] * len(tasks)

    def run(index: int) -> None:
        start.wait()
        try:
            results[index] = tasks[index]()  # type: ignore[call-overload]  # untyped
        except Conflict as error:
            results[index] = error  # type: ignore[call-overload]  # untyped

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return cast(Any, results)


@pytest.mark.parametrize("attempt", range(5))
def test_of_many_threads_that_act_on_what_they_saw_one_wins(
    store: ReviewStore, make_images: Images, summary: CaseSummary, people: People, attempt: int
) -> None:
    case_id = store.open_case("north", make_images(3), summary)
    acts = [
        lambda: store.act(case_id, "open", people["anna"], hospital="north", expected_revision=1)
        for _ in range(6)
    ]
    results = in_threads(*acts)
    assert sum(isinstance(result, Conflict) for result in results) == 5
    assert store.case(None, case_id).revision == 2


def test_counts_stay_right_when_many_select_at_once(
    store: ReviewStore, make_images: Images, summary: CaseSummary, people: People
) -> None:
    case_id = store.open_case("north", make_images(40), summary)
    tasks = [
        lambda start=start: store.select(
            case_id,
            [image.image_id for image in make_images(10, start=start)],
            False,
            people["anna"],
        )
        for start in (0, 5, 10, 15)
    ]
    in_threads(*tasks, lambda: store.add_images(case_id, make_images(20, start=30)))
    case = store.case(None, case_id)
    assert (case.num_images, case.num_selected) == (50, 25)
    assert len(store.selected_ids(case_id)) == 25
    assert case.revision == 1 + len(
        [entry for entry in store.audit.entries().items if entry.what != "case.detect"]
    )


def test_two_detectors_that_find_the_same_group_open_one_case(
    store: ReviewStore, make_images: Images, summary: CaseSummary
) -> None:
    results = in_threads(
        *[lambda: store.open_case("north", make_images(30), summary) for _ in range(4)]
    )
    assert len(set(results)) == 1
    assert store.cases("north").total == 1
