from pathlib import Path

from federation.tracking.metrics import list_detections, metric_points, read_lines
from tests.federation.tracking.example_run import round_record, task_record


def test_round_numbers_have_the_round_as_step_and_task_numbers_the_task() -> None:
    points = list(
        metric_points(
            [round_record(6, 1), task_record(1), {"kind": "event", "round": 6, "what": "resumed"}]
        )
    )
    steps = {point.name: point.step for point in points}
    assert steps["round/accuracy"] == steps["loss/total"] == steps["entropy/north"] == 6
    assert (
        steps["task/accuracy"] == steps["class_accuracy/liver"] == steps["accuracy_on_task/1"] == 1
    )
    assert "entropy/south" not in steps
    assert "round/proxy_score" not in steps


def test_time_of_a_record_does_not_depend_on_when_it_is_uploaded() -> None:
    records = [round_record(number, 0) for number in range(4)]
    assert list(metric_points(records))[-1] == list(metric_points(records, start=3))[-1]
    assert next(metric_points(records, start=3)).seconds == 8


def test_detections_list_hits_false_alarms_and_misses() -> None:
    assert [
        (each["round"], each["twin"], each["outcome"])
        for each in list_detections([round_record(0, 0), round_record(1, 0)])
    ] == [
        (0, "south", "false_alarm"),
        (1, "north", "hit"),
    ]


def test_incomplete_last_line_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text('{"kind": "round"}\n{"kind": "ro')
    assert read_lines(tmp_path / "records.jsonl") == [{"kind": "round"}]
    assert read_lines(tmp_path / "absent.jsonl") == []
