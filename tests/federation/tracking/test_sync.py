from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation.tracking import TrackingError, sync
from incremental.registry import ModelRegistry
from tests.federation.tracking.example_run import MEASURED, ExampleRun, upload_state_of


def test_second_sync_changes_nothing(run: ExampleRun, store: Callable[[], Any]) -> None:
    run.whole()
    first = sync(run.folder)
    second = sync(run.folder)
    assert first == second
    assert len(store().get_metric_history(first.run_id, "round/accuracy")) == 2
    assert len(ModelRegistry(first.tracking_uri, "fedka").list_versions()) == 2
    assert len(store().search_runs([store().get_run(first.run_id).info.experiment_id])) == 1


def test_upload_repeated_after_a_crash_doubles_nothing(
    run: ExampleRun, store: Callable[[], Any]
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
    run.write("mlflow.json", {**upload_state_of(run), **forgotten})
    after = sync(run.folder)
    assert after == before
    for name in MEASURED:
        assert len(store().get_metric_history(before.run_id, name)) == 2
    assert len(ModelRegistry(before.tracking_uri, "fedka").list_versions()) == 2


def test_model_saved_again_becomes_a_new_version(run: ExampleRun) -> None:
    run.whole()
    sync(run.folder)
    run.keep_model(1, seed=2)
    state = sync(run.folder)
    assert state.versions["task-1"]["version"] == 3


def test_emptied_store_gets_the_whole_run_again(
    run: ExampleRun, store: Callable[[], Any], empty_store: Path
) -> None:
    run.whole()
    gone = sync(run.folder, f"sqlite:///{run.folder.parent / 'other.db'}")
    here = sync(run.folder)
    assert here.tracking_uri != gone.tracking_uri
    run.write("mlflow.json", {**upload_state_of(run), "run_id": gone.run_id})
    again = sync(run.folder)
    assert again.run_id not in (gone.run_id, here.run_id)
    assert len(store().get_metric_history(again.run_id, "round/accuracy")) == 2


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no run folder"):
        sync(tmp_path)
