import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import torch

from federation.tracking import RunMirror, TrackingConfig, TrackingError, sync
from federation.tracking.metrics import list_detections, metric_points, read_lines
from incremental.head import grow_head
from incremental.model_file import save_model
from incremental.model_store import open_store
from incremental.network import NetworkConfig, initial_weights
from incremental.registry import ModelRegistry

ORGANS = ("liver", "spleen", "heart", "bladder")
MEASURED = {"round/accuracy", "loss/total", "detection/hit", "entropy/north", "round/num_rejected"}


def round_record(number: int, task: int) -> dict[str, Any]:
    north = {
        "twin": "north",
        "signal": number == 1,
        "entropy": 0.5 + number / 10,
        "statistic": 0.2,
        "threshold": 0.1,
    }
    south = {
        "twin": "south",
        "signal": number == 0,
        "entropy": None,
        "statistic": None,
        "threshold": 0.1,
    }
    return {
        "kind": "round",
        "round": number,
        "task": task,
        "seconds": 2.0,
        "chosen": ["north", "south"],
        "accepted": ["north"],
        "rejected": [{"twin": "south", "reason": "not finite"}],
        "grew": [],
        "num_classes": 2 + 2 * task,
        "losses": {"total": 1.0 / (number + 1)},
        "observations": [
            {
                **north,
                "is_boundary": number == 1,
                "new_class_names": ["heart"],
                "num_new_images": 7,
            },
            {**south, "is_boundary": False, "new_class_names": [], "num_new_images": 0},
        ],
        "proxy_score": None,
        "accuracy": 0.5 + number / 10,
        "macro_f1": 0.4,
        "images_trained": 100,
        "megabytes_up": 1.5,
        "megabytes_down": 2.5,
    }


def task_record(task: int) -> dict[str, Any]:
    names = list(ORGANS[: 2 + 2 * task])
    return {
        "kind": "task",
        "task": task,
        "round": task,
        "seen_classes": names,
        "accuracy": 0.7,
        "macro_f1": 0.6,
        "per_class_accuracy": dict.fromkeys(names, 0.7),
        "accuracy_row": [0.7] * (task + 1),
        "confusion": [[3] * (len(names) + 1) for _ in names],
        "forgetting": None if task == 0 else 0.1,
    }


@dataclass(frozen=True)
class FakeRun:
    """A run folder that grows as an experiment lets it grow."""

    folder: Path
    network: NetworkConfig

    def begin(self) -> None:
        self.folder.mkdir(parents=True)
        config = {
            "name": "made",
            "seed": 1,
            "method": {"name": "fedka", "weight": 0.5},
            "hospitals": [{"id": "h" * 7000}],
        }
        self.write("config.json", {**config, "tracking": {}})
        self.write("manifest.json", {"tasks": [ORGANS[:2], ORGANS[2:]]})
        self.write("environment.json", {"code_version": "abc"})

    def write(self, name: str, value: Mapping[str, Any]) -> None:
        (self.folder / name).write_text(json.dumps(value))

    def append(self, record: Mapping[str, Any]) -> None:
        with (self.folder / "records.jsonl").open("a") as lines:
            lines.write(json.dumps(record) + "\n")

    def keep_model(self, task: int, seed: int = 1) -> None:
        names = ORGANS[: 2 + 2 * task]
        weights = grow_head(
            initial_weights(self.network, seed), len(names), torch.Generator().manual_seed(seed)
        )
        facts = {"round": task, "score": None, "test_accuracy": 0.7}
        digest = save_model(
            self.folder / "models" / f"task-{task}", weights, self.network, names, facts
        )
        self.append(
            {
                "kind": "model",
                "task": task,
                "digest": digest,
                "folder": f"models/task-{task}",
                **facts,
            }
        )

    def end(self) -> None:
        self.write("results.json", {"last_accuracy": 0.7})
        (self.folder / "report.html").write_text("<html></html>")
        (self.folder / "examples").mkdir()
        np.savez(
            self.folder / "examples" / "attention.npz", images=np.zeros((2, 16, 16, 3), np.uint8)
        )

    def whole(self) -> None:
        self.begin()
        for task in (0, 1):
            self.append(round_record(task, task))
            self.append(task_record(task))
            self.keep_model(task)
        self.end()


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def run(empty_store: Path, tmp_path: Path, tiny_network: NetworkConfig) -> FakeRun:
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    return FakeRun(tmp_path / "runs" / "first", tiny_network)


@pytest.fixture
def store(run: FakeRun) -> Callable[[], Any]:
    return lambda: open_store(f"sqlite:///{run.folder.parent / 'mlflow.db'}")


@pytest.fixture(params=["refuses", "is silent"])
def dead_port(request: pytest.FixtureRequest) -> Iterator[int]:
    with socket.socket() as taken:  # bound, so that nobody else gets it
        taken.bind(("127.0.0.1", 0))
        if request.param == "is silent":
            taken.listen()
        yield taken.getsockname()[1]


def receipt_of(run: FakeRun) -> dict[str, Any]:
    return dict(json.loads((run.folder / "mlflow.json").read_text()))


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "http://host"},
        {"uri": "mlruns"},
        {"uri": "http://me:secret@host"},
        {"minimum_accuracy": 1.5},
        {"timeout_seconds": 0},
        {"experiment": ""},
        {"registered_model": "a/b"},
    ],
)
def test_configuration_that_cannot_work_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        TrackingConfig(**settings)


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


def test_time_of_a_record_is_the_same_when_it_is_read_later() -> None:
    records = [round_record(number, 0) for number in range(4)]
    assert list(metric_points(records))[-1] == list(metric_points(records, start=3))[-1]
    assert next(metric_points(records, start=3)).seconds == 8


def test_detections_list_signals_and_misses() -> None:
    assert [
        (each["round"], each["twin"], each["outcome"])
        for each in list_detections([round_record(0, 0), round_record(1, 0)])
    ] == [
        (0, "south", "false_alarm"),
        (1, "north", "hit"),
    ]


def test_line_that_is_still_being_written_waits(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text('{"kind": "round"}\n{"kind": "ro')
    assert read_lines(tmp_path / "records.jsonl") == [{"kind": "round"}]
    assert read_lines(tmp_path / "absent.jsonl") == []


def test_running_experiment_is_mirrored_round_by_round(
    run: FakeRun, store: Callable[[], Any]
) -> None:
    said: list[str] = []
    mirror = RunMirror(TrackingConfig(minimum_accuracy=0.6), run.folder, said.append)
    run.begin()
    for task in (0, 1):
        run.append(round_record(task, task))
        run.append(task_record(task))
        run.keep_model(task)
        assert mirror.update()
        data = store().get_run(receipt_of(run)["run_id"])
        assert data.info.status == "RUNNING"
        assert data.data.metrics["round/accuracy"] == 0.5 + task / 10
    run.end()
    assert mirror.finish()
    assert said == []
    data = store().get_run(receipt_of(run)["run_id"])
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
    history = store().get_metric_history(receipt_of(run)["run_id"], "round/accuracy")
    assert [(each.step, each.value) for each in history] == [(0, 0.5), (1, 0.6)]
    names = {each.path for each in store().list_artifacts(receipt_of(run)["run_id"])}
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
    first, second = ModelRegistry(receipt_of(run)["tracking_uri"], "fedka").list_versions()
    assert (first.aliases, second.aliases) == (("previous",), ("champion",))
    assert second.facts["task"] == "1"
    assert receipt_of(run)["versions"]["task-1"]["refused"] is None


def test_model_below_the_minimum_is_registered_but_refused(run: FakeRun) -> None:
    run.whole()
    RunMirror(TrackingConfig(minimum_accuracy=0.8), run.folder, lambda text: None).finish()
    assert [
        each.aliases
        for each in ModelRegistry(receipt_of(run)["tracking_uri"], "fedka").list_versions()
    ] == [(), ()]
    assert (
        receipt_of(run)["versions"]["task-0"]["refused"]
        == "has an accuracy of 0.7000; the least allowed is 0.8000"
    )


def test_sync_of_a_run_that_is_there_changes_nothing(
    run: FakeRun, store: Callable[[], Any]
) -> None:
    run.whole()
    first = sync(run.folder)
    second = sync(run.folder)
    assert first == second
    assert len(store().get_metric_history(first.run_id, "round/accuracy")) == 2
    assert len(ModelRegistry(first.tracking_uri, "fedka").list_versions()) == 2
    assert len(store().search_runs([store().get_run(first.run_id).info.experiment_id])) == 1


def test_crash_before_anything_was_noted_doubles_nothing(
    run: FakeRun, store: Callable[[], Any]
) -> None:
    run.whole()
    before = sync(run.folder)
    forgotten = {
        "run_id": "",
        "params_uploaded": False,
        "records_uploaded": 0,
        "system_uploaded": 0,
        "versions": {},
        "artifacts_uploaded": {},
    }
    run.write("mlflow.json", {**receipt_of(run), **forgotten})
    after = sync(run.folder)
    assert after == before
    for name in MEASURED:
        assert len(store().get_metric_history(before.run_id, name)) == 2
    assert len(ModelRegistry(before.tracking_uri, "fedka").list_versions()) == 2


def test_interrupted_run_goes_on_as_the_same_run(run: FakeRun, store: Callable[[], Any]) -> None:
    run.begin()
    run.append(round_record(0, 0))
    run.append(round_record(1, 0))
    assert RunMirror(TrackingConfig(), run.folder, lambda text: None).finish("KILLED")
    run_id = receipt_of(run)["run_id"]
    assert store().get_run(run_id).info.status == "KILLED"
    (run.folder / "records.jsonl").write_text(
        json.dumps(round_record(0, 0)) + "\n"
    )  # resumed from the round before
    mirror = RunMirror(TrackingConfig(), run.folder, lambda text: None)
    run.append(round_record(1, 0))
    run.append(round_record(2, 0))
    assert mirror.update()
    assert receipt_of(run)["run_id"] == run_id
    assert store().get_run(run_id).info.status == "RUNNING"
    assert [each.step for each in store().get_metric_history(run_id, "round/accuracy")] == [0, 1, 2]


def test_model_that_was_saved_anew_becomes_a_new_version(run: FakeRun) -> None:
    run.whole()
    sync(run.folder)
    run.keep_model(1, seed=2)
    receipt = sync(run.folder)
    assert receipt.versions["task-1"]["version"] == 3


def test_server_that_does_not_answer_is_told_once_and_the_run_is_uploaded_later(
    run: FakeRun, store: Callable[[], Any], dead_port: int
) -> None:
    said: list[str] = []
    mirror = RunMirror(
        TrackingConfig(uri=f"http://127.0.0.1:{dead_port}", timeout_seconds=1),
        run.folder,
        said.append,
    )
    run.whole()
    started = time.monotonic()
    assert [mirror.update() for _ in range(5)] == [False] * 5
    assert not mirror.finish()
    assert time.monotonic() - started < 20
    assert len(said) == 1
    assert "fedka sync" in said[0]
    with pytest.raises(TrackingError, match="what was uploaded is kept"):
        sync(run.folder, "sqlite:///" + str(run.folder / "config.json"))
    receipt = sync(run.folder)
    assert store().get_run(receipt.run_id).info.status == "FINISHED"
    assert len(store().get_metric_history(receipt.run_id, "system/cpu_utilization_percentage")) == 5
    assert set(receipt.versions) == {"task-0", "task-1"}


def test_store_that_answers_again_gets_what_it_missed(
    run: FakeRun, store: Callable[[], Any]
) -> None:
    said: list[str] = []
    mirror = RunMirror(TrackingConfig(retry_seconds=0), run.folder, said.append)
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
    assert [text.split(":")[0] for text in said] == [
        "MLflow is behind",
        "the MLflow store answers again; the run is up to date there",
    ]
    assert len(store().get_metric_history(receipt_of(run)["run_id"], "round/accuracy")) == 2


def test_damaged_model_never_stops_a_run(run: FakeRun) -> None:
    said: list[str] = []
    run.whole()
    (run.folder / "models" / "task-0" / "weights.safetensors").write_bytes(b"")
    assert not RunMirror(TrackingConfig(), run.folder, said.append).update()
    assert "was changed or cut short" in said[0]
    assert receipt_of(run)["records_uploaded"] == 6


def test_store_that_was_emptied_gets_the_run_anew(
    run: FakeRun, store: Callable[[], Any], empty_store: Path
) -> None:
    run.whole()
    gone = sync(run.folder, f"sqlite:///{run.folder.parent / 'other.db'}")
    here = sync(run.folder)
    assert here.tracking_uri != gone.tracking_uri
    run.write("mlflow.json", {**receipt_of(run), "run_id": gone.run_id})
    again = sync(run.folder)
    assert again.run_id not in (gone.run_id, here.run_id)
    assert len(store().get_metric_history(again.run_id, "round/accuracy")) == 2


def test_watcher_is_told_first_and_rounds_are_uploaded(run: FakeRun) -> None:
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
    assert receipt_of(run)["records_uploaded"] == 2


def test_tracking_that_is_switched_off_writes_nothing(run: FakeRun) -> None:
    run.begin()
    mirror = RunMirror(TrackingConfig(enabled=False), run.folder, lambda text: None)
    assert not mirror.update()
    assert not mirror.finish()
    assert not (run.folder / "mlflow.json").exists()


def test_run_that_never_began_leaves_no_trace(run: FakeRun) -> None:
    said: list[str] = []
    RunMirror(TrackingConfig(), run.folder, said.append).finish("FAILED")
    assert said == []
    assert not run.folder.exists()


def test_waiting_less_is_for_our_requests_alone(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    run.begin()
    RunMirror(TrackingConfig(), run.folder, lambda text: None).update()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_folder_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no run folder"):
        sync(tmp_path)
