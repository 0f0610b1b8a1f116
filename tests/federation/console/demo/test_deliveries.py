import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest

from federation.console.demo.deliveries import STATE_FILE, Deliveries
from federation.console.demo.plan import DemoError, DemoPlan, demo_settings, plain_settings
from federation.console.settings import ConsoleSettings, make_folder

PLAN = DemoPlan(
    patients=10, known=("liver", "spleen"), unknown_from=1, unknown_at_once=2, unknown_most=4
)


@pytest.fixture
def settings(tmp_path: Path) -> ConsoleSettings:
    made = demo_settings(PLAN, tmp_path / "demo")
    make_folder(made, plain_settings(PLAN))
    return made


def sent(settings: ConsoleSettings, hospital: str) -> list[Any]:
    return sorted(settings.hospital(hospital).inbox.glob("*.dcm"))


def names(paths: list[Path]) -> list[str]:
    return sorted(str(pydicom.dcmread(path).get("BodyPartExamined", "")) for path in paths)


def test_a_patient_of_the_history_has_every_known_organ_named(settings: ConsoleSettings) -> None:
    deliveries = Deliveries(PLAN, settings)
    deliveries.send_history("north")
    assert (
        names(sent(settings, "north")) == ["LIVER", "SPLEEN"]
        and deliveries.num_history_sent("north") == 1
    )
    assert sent(settings, "south") == []


def test_the_unknown_organ_is_sent_to_its_hospitals_in_the_planned_deliveries(
    settings: ConsoleSettings,
) -> None:
    deliveries, counts = Deliveries(PLAN, settings), []
    for _ in range(5):
        before = {hospital: len(sent(settings, hospital)) for hospital in PLAN.hospitals}
        deliveries.send_next()
        counts.append(
            [len(sent(settings, hospital)) - before[hospital] for hospital in PLAN.hospitals]
        )
    assert counts == [[1, 1, 1], [3, 3, 1], [3, 3, 1], [1, 1, 1], [1, 1, 1]]


def test_deliveries_go_on_where_they_stopped_and_send_nothing_twice(
    settings: ConsoleSettings,
) -> None:
    Deliveries(PLAN, settings).send_next()
    first = set(sent(settings, "north"))
    later = Deliveries(PLAN, settings)
    later.send_next()
    assert later.num_streamed == 2 and first < set(sent(settings, "north"))


def test_a_delivery_that_was_broken_off_is_sent_again_under_the_same_uids(
    settings: ConsoleSettings,
) -> None:
    Deliveries(PLAN, settings).send_next()
    once = sent(settings, "north")
    (settings.folder / STATE_FILE).unlink()
    Deliveries(PLAN, settings).send_next()
    assert sent(settings, "north") == once


def test_no_two_hospitals_share_a_patient(settings: ConsoleSettings) -> None:
    Deliveries(PLAN, settings).send_history("north")
    Deliveries(PLAN, settings).send_history("south")
    patients = [
        {pydicom.dcmread(path).PatientID for path in sent(settings, hospital)}
        for hospital in ("north", "south")
    ]
    assert len(patients[0]) == len(patients[1]) == 1 and patients[0] != patients[1]


def test_the_stream_of_deliveries_can_be_stopped(settings: ConsoleSettings) -> None:
    stop, deliveries = threading.Event(), Deliveries(replace(PLAN, seconds=0.01), settings)
    sender = threading.Thread(target=deliveries.send_until, args=(stop,))
    sender.start()
    stop.set()
    sender.join(60)
    assert not sender.is_alive()


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": "liver"},
        {"unknown": "tail"},
        {"finders": ("east",)},
        {"patients": 5},
        {"seconds": 0.0},
    ],
)
def test_an_inconsistent_plan_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DemoError, match="allowed: "):
        replace(PLAN, **change)
