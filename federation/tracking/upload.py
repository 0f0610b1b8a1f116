"""Upload of a run folder to MLflow: configuration, metrics, models and artifacts."""

import csv
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from federation.tracking.config import TrackingConfig
from federation.tracking.metrics import list_detections, metric_points, read_lines
from federation.tracking.upload_state import load_upload_state, new_upload_state
from incremental.model_store import artifact_location, check_uri, open_store
from incremental.registry import ModelRegistry

_ARTIFACTS = ("*.html", "*.json", "records.jsonl", "figures/*", "examples/*")
_MAX_METRICS, _MAX_PARAMS, _MAX_PARAM_LENGTH = 1000, 100, 6000  # of one request to MLflow


def store_uri(folder: Path, uri: str | None) -> str:
    """Return a store's address; the default is ``mlflow.db`` beside the run folder."""
    return check_uri(uri or f"sqlite:///{folder.absolute().parent / 'mlflow.db'}")


class Upload:
    """The steps of uploading a run folder. Each continues after the last upload and is repeatable.

    Args:
        folder: The run folder.
        config: Where to upload.
        live: Whether the run goes on; MLflow then shows it as running, even if it was closed.
    """

    def __init__(self, folder: Path, config: TrackingConfig, *, live: bool) -> None:
        self.folder, self.config = folder, config
        uri = store_uri(folder, config.uri)
        self.client = open_store(uri)
        self.state = load_upload_state(folder, uri)
        self._find_or_create_run(live)

    def upload_records(self) -> None:
        """Upload the configuration as parameters and the records as metrics."""
        from mlflow.entities import Metric, Param

        state = self.state
        if not state.params_uploaded:
            flat = _flatten(read_json(self.folder / "config.json"))
            params = [Param(key, value) for key, value in flat.items()]
            for part in _parts(params, _MAX_PARAMS):
                self.client.log_batch(state.run_id, params=part)
            state.params_uploaded = True
        records = read_lines(self.folder / "records.jsonl")
        samples = read_lines(self.folder / "system.jsonl")
        # A resumed run may have gone back a round.
        first_record = min(state.records_uploaded, len(records))
        first_sample = min(state.system_uploaded, len(samples))
        metrics = [
            Metric(name, value, int(state.started_ms + seconds * 1000), step)
            for name, value, step, seconds in metric_points(records, first_record)
        ]
        metrics += [
            Metric(f"system/{name}", value, sample["time_ms"], step)
            for step, sample in enumerate(samples[first_sample:], first_sample)
            for name, value in sample.items()
            if name != "time_ms"
        ]
        for part in _parts(metrics, _MAX_METRICS):
            self.client.log_batch(state.run_id, metrics=part)
        state.records_uploaded, state.system_uploaded = len(records), len(samples)
        state.save(self.folder)

    def upload_models(self) -> None:
        """Register each task's model; the registry decides whether it becomes champion."""
        known = self.state.versions
        registry: ModelRegistry | None = None
        for place in sorted((self.folder / "models").glob("task-*"), key=_task_number):
            digest = read_json(place / "manifest.json")["digest"]
            if known.get(place.name, {}).get("digest") == digest:
                continue
            registry = registry or ModelRegistry(
                self.state.tracking_uri, self.config.registered_model
            )
            tags = {"task": str(_task_number(place)), "run": self.folder.name}
            example = _example_image(self.folder)
            version = registry.register(place, self.state.run_id, tags, example)
            refused = registry.accept(version, self.config.minimum_accuracy)
            known[place.name] = {"version": version, "digest": digest, "refused": refused}
            self.state.save(self.folder)

    def upload_artifacts(self) -> None:
        """Upload new and changed files: report, figures, results, confusion matrix, detections."""
        with tempfile.TemporaryDirectory() as temporary:
            derived = _write_derived_files(
                read_lines(self.folder / "records.jsonl"), Path(temporary)
            )
            files = {
                str(path.relative_to(self.folder)): path
                for pattern in _ARTIFACTS
                for path in sorted(self.folder.glob(pattern))
                if path.is_file()
            }
            files.pop("mlflow.json", None)
            files |= {path.name: path for path in derived}
            for name, path in files.items():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                if self.state.artifacts_uploaded.get(name) != digest:
                    parent = str(Path(name).parent)
                    remote_folder = None if parent == "." else parent
                    self.client.log_artifact(self.state.run_id, str(path), remote_folder)
                    self.state.artifacts_uploaded[name] = digest
            self.state.save(self.folder)

    def end(self, status: str) -> None:
        """Close the run at the time of its last record."""
        files = [self.folder / name for name in ("config.json", "records.jsonl")]
        last = max(path.stat().st_mtime for path in files if path.is_file())
        self.client.set_terminated(self.state.run_id, status, end_time=int(last * 1000))

    def _find_or_create_run(self, live: bool) -> None:
        from mlflow.exceptions import MlflowException

        if self.state.run_id:
            try:
                run = self.client.get_run(self.state.run_id)
                if live and run.info.status != "RUNNING":
                    self.client.update_run(self.state.run_id, status="RUNNING")
                return
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            # The store was emptied: begin again.
            self.state = new_upload_state(self.folder, self.state.tracking_uri)
        # Saved before the run is created: after a crash its key finds the run.
        self.state.save(self.folder)
        run_key, experiment_id = self.state.run_key, self._experiment_id()
        if found := self.client.search_runs([experiment_id], f"tags.run_key = '{run_key}'"):
            run = found[0]
        else:
            path = self.folder / "environment.json"
            environment = read_json(path) if path.is_file() else {}
            code_version = str(environment.get("code_version", "unknown"))
            run = self.client.create_run(
                experiment_id,
                start_time=self.state.started_ms,
                tags={"run_key": run_key, "code_version": code_version},
                run_name=self.folder.absolute().name,
            )
        self.state.run_id = run.info.run_id
        self.state.save(self.folder)

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self.config.experiment
        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = artifact_location(self.state.tracking_uri)
            try:
                return str(self.client.create_experiment(name, location))
            except MlflowException as error:  # another run created it meanwhile
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id)


def _write_derived_files(records: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Write the last confusion matrix and the list of detections as files; return their paths."""
    written = []
    tasks = [record for record in records if record.get("kind") == "task"]
    if tasks:
        names, rows = tasks[-1]["seen_classes"], tasks[-1]["confusion"]
        written.append(folder / "confusion_matrix.csv")
        with written[-1].open("w", newline="", encoding="utf-8") as file:
            extra = ["another class"] * (len(rows[0]) - len(names) if rows else 0)
            table = csv.writer(file)
            table.writerow(["true class / predicted", *names, *extra])
            table.writerows([name, *row] for name, row in zip(names, rows, strict=True))
    written.append(folder / "detections.json")
    written[-1].write_text(json.dumps(list_detections(records), indent=2), encoding="utf-8")
    return written


def _example_image(folder: Path) -> Any:
    """Return one of the run's example images, shape [1, H, W, C]; none if the run saved none."""
    path = folder / "examples" / "attention.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as examples:
        return examples["images"][:1]


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        if len(text) > _MAX_PARAM_LENGTH:
            text = text[: _MAX_PARAM_LENGTH - 3] + "..."
        flat[prefix + key] = text
    return flat


def _parts(values: list[Any], size: int) -> Iterator[list[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _task_number(model_folder: Path) -> int:
    return int(model_folder.name.removeprefix("task-"))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    return dict(json.loads(path.read_text(encoding="utf-8")))
