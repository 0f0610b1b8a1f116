"""What of a run folder is uploaded, in which order. Knows the folder's format and MLflow's client; nothing that makes runs."""

import csv
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from federation.tracking.config import TrackingConfig
from federation.tracking.numbers import detections_of, points_of, read_lines
from federation.tracking.receipt import load_receipt, new_receipt
from incremental.model_store import artifact_location, check_uri, open_store
from incremental.registry import ModelRegistry

_ARTIFACTS = ("*.html", "*.json", "records.jsonl", "figures/*", "examples/*")
_MOST_METRICS, _MOST_PARAMS, _LONGEST_PARAM = 1000, 100, 6000  # of one request to MLflow


def store_of(folder: Path, uri: str | None) -> str:
    """Return the address of a run's store: the one that was named, else ``mlflow.db`` beside the run folder."""
    return check_uri(uri or f"sqlite:///{folder.absolute().parent / 'mlflow.db'}")


class Upload:
    """The steps of copying one run folder; each continues where the receipt says and may be repeated.

    Args:
        folder: The run folder.
        config: Where to.
        live: The run goes on: MLflow shall call it running, also if it was closed before.
    """

    def __init__(self, folder: Path, config: TrackingConfig, *, live: bool) -> None:
        self.folder, self.config = folder, config
        uri = store_of(folder, config.uri)
        self.client = open_store(uri)
        self.receipt = load_receipt(folder, uri)
        self._find_or_make_run(live)

    def records(self) -> None:
        """Copy the configuration and the numbers."""
        from mlflow.entities import Metric, Param

        receipt = self.receipt
        if not receipt.params_uploaded:
            flat = _flatten(read_json(self.folder / "config.json"))
            for part in _parts([Param(key, value) for key, value in flat.items()], _MOST_PARAMS):
                self.client.log_batch(receipt.run_id, params=part)
            receipt.params_uploaded = True
        lines = read_lines(self.folder / "records.jsonl")
        system = read_lines(self.folder / "system.jsonl")
        receipt.records_uploaded = min(
            receipt.records_uploaded, len(lines)
        )  # a resumed run may have gone back a round
        receipt.system_uploaded = min(receipt.system_uploaded, len(system))
        points = list(points_of(lines, receipt.records_uploaded))
        metrics = [
            Metric(name, value, int(receipt.started_ms + seconds * 1000), step)
            for name, value, step, seconds in points
        ]
        for step, sample in enumerate(system[receipt.system_uploaded :], receipt.system_uploaded):
            metrics += [
                Metric(f"system/{name}", value, sample["time_ms"], step)
                for name, value in sample.items()
                if name != "time_ms"
            ]
        for part in _parts(metrics, _MOST_METRICS):
            self.client.log_batch(receipt.run_id, metrics=part)
        receipt.records_uploaded, receipt.system_uploaded = len(lines), len(system)
        self.receipt.save(self.folder)

    def models(self) -> None:
        """Register each task's model and let the rule decide whether it becomes champion."""
        known = self.receipt.versions
        registry: ModelRegistry | None = None
        for place in sorted((self.folder / "models").glob("task-*"), key=_task_of):
            digest = read_json(place / "manifest.json")["digest"]
            if known.get(place.name, {}).get("digest") == digest:
                continue
            registry = registry or ModelRegistry(
                self.receipt.tracking_uri, self.config.registered_model
            )
            tags = {"task": str(_task_of(place)), "run": self.folder.name}
            version = registry.register(place, self.receipt.run_id, tags, _example(self.folder))
            refused = registry.accept(version, self.config.minimum_accuracy)
            known[place.name] = {"version": version, "digest": digest, "refused": refused}
            self.receipt.save(self.folder)

    def artifacts(self) -> None:
        """Copy files that are new or have changed: report, figures, manifest, results, confusion matrix, detections."""
        with tempfile.TemporaryDirectory() as temporary:
            derived = _derive(read_lines(self.folder / "records.jsonl"), Path(temporary))
            own = [
                path
                for pattern in _ARTIFACTS
                for path in sorted(self.folder.glob(pattern))
                if path.is_file()
            ]
            for path in (*own, *derived):
                name = path.name if path in derived else str(path.relative_to(self.folder))
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                if name != "mlflow.json" and self.receipt.artifacts_uploaded.get(name) != digest:
                    parent = str(Path(name).parent)
                    self.client.log_artifact(
                        self.receipt.run_id, str(path), None if parent == "." else parent
                    )
                    self.receipt.artifacts_uploaded[name] = digest
            self.receipt.save(self.folder)

    def end(self, status: str) -> None:
        """Close the run; it ended with its last record, whenever it is uploaded."""
        written = [
            path.stat().st_mtime
            for name in ("config.json", "records.jsonl")
            if (path := self.folder / name).is_file()
        ]
        self.client.set_terminated(self.receipt.run_id, status, end_time=int(max(written) * 1000))

    def _find_or_make_run(self, live: bool) -> None:
        from mlflow.exceptions import MlflowException

        receipt = self.receipt
        if receipt.run_id:
            try:
                if self.client.get_run(receipt.run_id).info.status != "RUNNING" and live:
                    self.client.update_run(receipt.run_id, status="RUNNING")
                return
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            self.receipt = receipt = new_receipt(
                self.folder, receipt.tracking_uri
            )  # the store was emptied: begin again
        self.receipt.save(
            self.folder
        )  # the key first: a run that was made just before a crash is found by it
        experiment_id = self._experiment()
        found = self.client.search_runs([experiment_id], f"tags.run_key = '{receipt.run_key}'")
        environment = (
            read_json(self.folder / "environment.json")
            if (self.folder / "environment.json").is_file()
            else {}
        )
        tags = {
            "run_key": receipt.run_key,
            "code_version": str(environment.get("code_version", "unknown")),
        }
        if found:
            receipt.run_id = found[0].info.run_id
        else:
            made = self.client.create_run(
                experiment_id,
                start_time=receipt.started_ms,
                tags=tags,
                run_name=self.folder.absolute().name,
            )
            receipt.run_id = made.info.run_id
        self.receipt.save(self.folder)

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self.config.experiment
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(
                    self.client.create_experiment(
                        name, artifact_location(self.receipt.tracking_uri)
                    )
                )
            except MlflowException as error:  # another run of the same moment was faster
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id)


def _derive(records: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Write what is read better as a file of its own: the last confusion matrix and the list of detections."""
    made = []
    tasks = [record for record in records if record.get("kind") == "task"]
    if tasks:
        names, rows = tasks[-1]["seen_classes"], tasks[-1]["confusion"]
        made.append(folder / "confusion_matrix.csv")
        with made[-1].open("w", newline="", encoding="utf-8") as file:
            extra = ["another class"] * (len(rows[0]) - len(names) if rows else 0)
            table = csv.writer(file)
            table.writerow(["true class / predicted", *names, *extra])
            table.writerows([name, *row] for name, row in zip(names, rows, strict=True))
    made.append(folder / "detections.json")
    made[-1].write_text(json.dumps(detections_of(records), indent=2), encoding="utf-8")
    return made


def _example(folder: Path) -> Any:
    """Return one image of the run's examples, if it saved any."""
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
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[prefix + key] = (
                text if len(text) <= _LONGEST_PARAM else text[: _LONGEST_PARAM - 3] + "..."
            )
    return flat


def _parts(values: list[Any], size: int) -> Iterator[list[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _task_of(place: Path) -> int:
    return int(place.name.removeprefix("task-"))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    return dict(json.loads(path.read_text(encoding="utf-8")))
