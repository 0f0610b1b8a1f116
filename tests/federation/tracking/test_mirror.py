import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from federation.tracking import RunMirror, TrackingConfig, TrackingError, sync
from incremental.registry import ModelRegistry
from tests.federation.tracking.example_run import (
    MEASURED,
    ExampleRun,
    round_record,
    task_record,
    upload_state_of,
)


def test_running_experiment_is_uploaded_after_each_round(
    run: ExampleRun, store: Callable[[], Any]
) -> None:
    messages: list[str] = []
    mirror = RunMirror(TrackingConfig(minimum_accuracy=0.6), run.folder, messages.append)
    run.begin()
    for task in (0, 1):
        run.append(round_record(task, task))
        run.append(task_record(task))
        run.keep_model(task)
        assert mirror.update()
        data = store().get_run(upload_state_of(run)["run_id"])
        assert data.info.status == "RUNNING"
        assert data.data.metrics["round/accuracy"] == 0.5 + task / 10
    run.end()
    assert mirror.finish()
    assert messages == []
    data = store().get_run(upload_state_of(run)["run_id"])
    assert data.info.status == "FINISHED"
    assert data.info.run_name == "first"
    assert data.data.params["method.name"] == "fedka"
    assert data.data.params["seed"] == "1"
    assert data.data.tags["code_version"] == "abc"
    assert set(data.data.metrics) >= MEASURED | {
        "task/forgetting",
        "model/test_accuracy",
        "system/process_memory_megabytes",
    }
    history = store().get_metric_history(upload_state_of(run)["run_id"], "round/accuracy")
    assert [(each.step, each.value) for each in history] == [(0, 0.5), (1, 0.6)]
    names = {each.path for each in store().list_artifacts(upload_state_of(run)["run_id"])}
    assert names >= {
        "report.html",
        "results.json",
        "manifest.json",
        "confusion_matrix.csv",
        "detections.json",
        "records.jsonl",
        "examples",
    }
    assert "mlflow.json" not in names
    first, second = ModelRegistry(upload_state_of(run)["tracking_uri"], "fedka").list_versions()
    assert (first.aliases, second.aliases) == (("previous",), ("champion",))
    assert second.facts["task"] == "1"
    assert upload_state_of(run)["versions"]["task-1"]["refused"] is None


def test_model_below_the_minimum_accuracy_is_registered_but_not_champion(run: ExampleRun) -> None:
    run.whole()
    RunMirror(TrackingConfig(minimum_accuracy=0.8), run.folder, lambda text: None).finish()
    assert [
        each.aliases
        for each in ModelRegistry(upload_state_of(run)["tracking_uri"], "fedka").list_versions()
    ] == [(), ()]
    assert (
        upload_state_of(run)["versions"]["task-0"]["refused"]
        == "has an accuracy of 0.7000; the least allowed is 0.8000"
    )


def test_resumed_run_continues_the_same_mlflow_run(
    run: ExampleRun, store: Callable[[], Any]
) -> None:
    run.begin()
    run.append(round_record(0, 0))
    run.append(round_record(1, 0))
    assert RunMirror(TrackingConfig(), run.folder, lambda text: None).finish("KILLED")
    run_id = upload_state_of(run)["run_id"]
    assert store().get_run(run_id).info.status == "KILLED"
    (run.folder / "records.jsonl").write_text(
        json.dumps(round_record(0, 0)) + "\n"
    )  # resumed from the round before
    mirror = RunMirror(TrackingConfig(), run.folder, lambda text: None)
    run.append(round_record(1, 0))
    run.append(round_record(2, 0))
    assert mirror.update()
    assert upload_state_of(run)["run_id"] == run_id
    assert store().get_run(run_id).info.status == "RUNNING"
    assert [each.step for each in store().get_metric_history(run_id, "round/accuracy")] == [0, 1, 2]


def test_unreachable_server_is_reported_once_and_the_run_can_be_uploaded_later(
    run: ExampleRun, store: Callable[[], Any], unreachable_port: int
) -> None:
    messages: list[str] = []
    mirror = RunMirror(
        TrackingConfig(uri=f"http://127.0.0.1:{unreachable_port}", timeout_seconds=1),
        run.folder,
        messages.append,
    )
    run.whole()
    started = time.monotonic()
    assert [mirror.update() for _ in range(5)] == [False] * 5
    assert not mirror.finish()
    assert time.monotonic() - started < 20
    assert len(messages) == 1
    assert "fedka sync" in messages[0]
    with pytest.raises(TrackingError, match="what was uploaded is kept"):
        sync(run.folder, "sqlite:///" + str(run.folder / "config.json"))
    state = sync(run.folder)
    assert store().get_run(state.run_id).info.status == "FINISHED"
    assert len(store().get_metric_history(state.run_id, "system/cpu_utilization_percentage")) == 5
    assert set(state.versions) == {"task-0", "task-1"}


def test_store_that_answers_again_gets_the_missing_records(
    run: ExampleRun, store: Callable[[], Any]
) -> None:
    messages: list[str] = []
    mirror = RunMirror(TrackingConfig(retry_seconds=0), run.folder, messages.append)
    run.begin()
    database, aside = run.folder.parent / "mlflow.db", run.folder.parent / "aside.db"
    run.append(round_record(0, 0))
    database.rename(aside)
    database.mkdir()
    assert not mirror.update()
    database.rmdir()
    aside.rename(database)
    run.append(round_record(1, 0))
    assert mirror.update()
    assert [text.split(":")[0] for text in messages] == [
        "MLflow is behind",
        "the MLflow store answers again; the run is up to date there",
    ]
    assert len(store().get_metric_history(upload_state_of(run)["run_id"], "round/accuracy")) == 2


def test_damaged_model_never_stops_a_run(run: ExampleRun) -> None:
    messages: list[str] = []
    run.whole()
    (run.folder / "models" / "task-0" / "weights.safetensors").write_bytes(b"")
    assert not RunMirror(TrackingConfig(), run.folder, messages.append).update()
    assert "was changed or cut short" in messages[0]
    assert upload_state_of(run)["records_uploaded"] == 6


def test_own_callback_runs_first_and_each_round_is_uploaded(run: ExampleRun) -> None:
    @dataclass(frozen=True)
    class RunCallbacks:
        record: Callable[[Mapping[str, Any]], None]
        name: str = "untouched"

    told: list[str] = []
    callbacks = RunMirror(TrackingConfig(), run.folder, told.append).with_upload(
        RunCallbacks(lambda record: told.append(record["kind"]))
    )
    run.begin()
    for record in (task_record(0), round_record(0, 0)):
        run.append(record)
        callbacks.record(record)
    assert told == ["task", "round"]
    assert callbacks.name == "untouched"
    assert upload_state_of(run)["records_uploaded"] == 2


def test_disabled_tracking_writes_nothing(run: ExampleRun) -> None:
    run.begin()
    mirror = RunMirror(TrackingConfig(enabled=False), run.folder, lambda text: None)
    assert not mirror.update()
    assert not mirror.finish()
    assert not (run.folder / "mlflow.json").exists()


def test_run_that_never_began_uploads_nothing(run: ExampleRun) -> None:
    messages: list[str] = []
    RunMirror(TrackingConfig(), run.folder, messages.append).finish("FAILED")
    assert messages == []
    assert not run.folder.exists()


def test_timeouts_of_mlflow_are_restored_after_an_upload(
    run: ExampleRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    run.begin()
    RunMirror(TrackingConfig(), run.folder, lambda text: None).update()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
