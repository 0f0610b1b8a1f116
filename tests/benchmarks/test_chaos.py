from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.chaos import experiment, main, missed_check, recovered_check, rounds_for
from benchmarks.chaos_faults import FAULTS, newest_state
from benchmarks.chaos_plan import BY_NAME, KINDS, Fault, plan
from benchmarks.chaos_report import (
    Episode,
    InjectedFault,
    check_table,
    cost_table,
    episode_log,
    feed_between,
    seconds_lost,
    usual_seconds,
)
from benchmarks.chaos_run import whole_round
from benchmarks.chaos_verdict import Check, attempts, comparable_state, equality_check
from physical.batch import Batch
from twin.memory import ExemplarMemory
from twin.state import TwinState

HOSPITALS = ("north", "east", "south", "west")


def planned(seed: int, count: int = 40, deadline: float = 20.0) -> list[Fault]:
    return list(islice(plan(seed, HOSPITALS, deadline), count))


def event(second: int, kind: str = "round", **more: Any) -> dict[str, Any]:
    at = datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds")
    return {"at": at, "event": kind, "text": f"{kind} at {second}", **more}


def episode(
    *kinds: Any, began: float = 100.0, lasted: float = 0.0, recovered: float | None = 130.0
) -> Episode:
    happened = [
        InjectedFault(
            Fault(kind, ("north",), 1.0, lasted, False), "2 processes", began, began + lasted
        )
        for kind in kinds
    ]
    return Episode(tuple(happened), recovered, 3, 4)


# ----- the plan


def test_a_seed_determines_the_whole_plan() -> None:
    assert planned(1) == planned(1) != planned(2)


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_comes_once_before_any_comes_again(seed: int) -> None:
    names = [fault.kind for fault in planned(seed, 2 * len(KINDS))]
    assert set(names[: len(KINDS)]) == set(names[len(KINDS) :]) == set(FAULTS) == set(BY_NAME)


@pytest.mark.parametrize("seed", range(5))
def test_a_fault_has_the_victims_and_the_duration_of_its_kind(
    seed: int,
) -> None:
    for fault in planned(seed):
        kind = BY_NAME[fault.kind]
        assert len(set(fault.victims)) == len(fault.victims) == kind.victims and set(
            fault.victims
        ) <= set(HOSPITALS)
        assert 20 * kind.least - 0.01 <= fault.seconds <= 20 * kind.most + 0.01 and fault.after >= 0


def test_a_slow_hospital_is_slower_than_the_deadline() -> None:
    assert all(fault.seconds > 20 for fault in planned(1, 200) if fault.kind == "slow hospital")


def test_only_faults_that_need_no_session_start_during_a_recovery_and_never_first() -> None:
    faults = planned(3, 200)
    at_once = [BY_NAME[fault.kind] for fault in faults if fault.at_once]
    assert at_once and not faults[0].at_once and not any(kind.needs_session for kind in at_once)


# ----- its size


def test_the_number_of_rounds_fills_the_time_that_faults_leave() -> None:
    assert (
        rounds_for(1200, 2.0)
        > rounds_for(600, 2.0)
        > rounds_for(600, 3.0)
        > rounds_for(600, 8.0)
        == rounds_for(600, 80.0)
        == 43
    )
    assert rounds_for(1, 8.0) == 3


def test_the_experiment_has_an_unreachable_tracker_and_arrivals_in_every_task() -> None:
    config = experiment(rounds_per_task=5, epochs=3)
    assert config.tracking.enabled and str(config.tracking.uri).startswith("http://127.0.0.1")
    assert (config.scenario.arrivals_per_task, config.training.epochs, len(config.hospitals)) == (
        5,
        3,
        4,
    )


# ----- the verdict


def test_two_mappings_are_equal_or_the_differing_names_are_listed() -> None:
    assert equality_check("all", {"a": 1, "b": 2}, {"b": 2, "a": 1}) == Check(
        "all", "2 compared, all equal", True
    )
    assert equality_check("all", {"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == Check(
        "all", "2 compared, differ: b, c", False
    )
    assert not equality_check("all", {"a": 1}, {}).good


def test_an_empty_comparison_is_not_good() -> None:
    assert not equality_check("weights", {}, {}).good and not recovered_check([]).good


def test_states_with_the_same_images_are_equal_whatever_the_positions() -> None:
    images = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2, 1)
    all_of_them = Batch(images, np.array([0, 0, 1, 1, 0, 1]), ("liver", "heart"))
    own = Batch(images[[1, 3, 4]], np.array([0, 1, 0]), ("liver", "heart"))
    memory = {"liver": np.array([4, 1]), "heart": np.array([3])}
    state = TwinState(
        ExemplarMemory(5, memory), 2, current=np.array([3]), kept={"control": torch.ones(2)}
    )
    here = TwinState(
        ExemplarMemory(5, {"liver": np.array([2, 0]), "heart": np.array([1])}),
        2,
        current=np.array([1]),
        kept=state.kept,
    )
    assert comparable_state(state, all_of_them.take) == comparable_state(here, own.take)
    for lost in (
        replace(here, memory=ExemplarMemory(5, {"liver": np.array([2]), "heart": np.array([1])})),
        replace(
            here, memory=ExemplarMemory(5, {"liver": np.array([0, 2]), "heart": np.array([1])})
        ),
        replace(here, current=np.array([0])),
        replace(here, kept={"control": torch.zeros(2)}),
        replace(here, observed_until=1),
    ):
        assert not equality_check(
            "state", comparable_state(state, all_of_them.take), comparable_state(lost, own.take)
        ).good


def test_sessions_and_repeated_rounds_are_counted_from_the_feed() -> None:
    begun = [
        event(1, round=number) for number in (0, 1, 1, 2, 2, 2, 3)
    ]  # round 3 is the last look of a run of three rounds
    running = [
        event(1, "state", state=state) for state in ("running", "waiting", "running", "finished")
    ]
    assert attempts([*begun, *running], 3) == (2, 3)


def test_only_a_round_that_begins_after_a_fault_shows_a_recovery() -> None:
    begun, done = event(1, "round"), event(2, "aggregated")
    assert whole_round([begun, event(1, "observe"), done])
    assert (
        not whole_round([done, begun])
        and not whole_round([done, begun, begun])
        and not whole_round([])
    )


def test_an_unreachable_mlflow_must_be_reported() -> None:
    assert (
        missed_check("...\nMLflow is behind: MlflowException: ...").good
        and not missed_check("finished").good
    )


# ----- the report


def test_half_a_round_is_expected_after_the_start_of_a_fault() -> None:
    assert seconds_lost(episode("full disk", began=100, recovered=130), 6.0) == 27
    assert seconds_lost(episode("full disk", began=100, recovered=101), 6.0) == 0
    assert seconds_lost(episode("full disk", recovered=None), 6.0) is None


def test_rounds_finished_during_a_fault_are_not_counted_as_lost() -> None:
    unmoved = replace(
        episode("slow hospital", began=100, recovered=130), rounds_after=8
    )  # it had not joined yet
    assert seconds_lost(unmoved, 6.0) == 3


def test_the_usual_round_is_the_median_of_those_in_the_feed() -> None:
    assert usual_seconds([event(1, "aggregated", seconds=each) for each in (2.0, 9.0, 3.0)]) == 3.0
    assert usual_seconds([]) == 0.0


def test_costs_are_listed_by_kind_and_combined_faults_separately() -> None:
    shown = cost_table(
        [
            episode("server killed"),
            episode("server killed", "hospital killed"),
            episode("slow hospital", recovered=None),
        ],
        0.0,
    )
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines()[2:]
    ]
    assert rows == [
        ["server killed", "1", "0", "30", "30"],
        ["slow hospital", "1", "0", "never", "0"],
        ["server killed + hospital killed", "1", "0", "30", "30"],
    ]


def test_the_feed_is_cut_to_a_time_span_and_repetitions_are_counted() -> None:
    feed = [
        event(99),
        event(100),
        *(event(each, text="the same") for each in (101, 102, 103)),
        event(130),
        event(140),
    ]
    lines = feed_between(feed, 100.5, 130.2)
    assert [line[10:] for line in lines] == ["round at 100", "the same  (x 3)", "round at 130"]


def test_a_long_feed_is_shown_at_its_ends() -> None:
    lines = feed_between([event(100 + each) for each in range(40)], 100, 200)
    assert len(lines) == 17 and "24 lines" in lines[8] and lines[-1].endswith("139")


def test_the_report_names_failed_checks() -> None:
    assert "**BAD**" in check_table([Check("all rounds are done", "3 of 4", False)])
    text = episode_log([episode("full disk", recovered=None)], [event(100)], 50.0, 1.0)
    assert "never recovered" in text and "second 50: full disk, north: 2 processes" in text


# ----- the faults


def test_the_newest_state_is_the_last_complete_file(tmp_path: Path) -> None:
    assert newest_state(tmp_path, "north") is None
    folder = tmp_path / "run" / "north"
    folder.mkdir(parents=True)
    for name in (
        "00003.safetensors",
        "00011.safetensors",
        "00012.kept.safetensors",
        "00013.damaged",
        ".00014.safetensors.ab",
    ):
        (folder / name).touch()
    assert newest_state(tmp_path, "north") == folder / "00011.safetensors"


def test_an_unknown_kind_of_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "rain"])
    assert "rain" in capsys.readouterr().err
