"""How much of a run is uploaded to MLflow, saved as ``mlflow.json`` in the run folder."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

_FILE = "mlflow.json"


@dataclass
class UploadState:
    """How much of a run is uploaded.

    Args:
        tracking_uri: Address of the store.
        run_key: Tag of the run in the store. It finds the run if we crash before ``run_id`` is
            saved.
        started_ms: When the run began [ms since 1970]. Times of records are counted from here, so
            that repeating an upload repeats its numbers.
        run_id: MLflow's identifier of the run; empty before the run is created.
        params_uploaded: Whether the configuration is uploaded.
        records_uploaded: Uploaded lines of ``records.jsonl``.
        system_uploaded: Uploaded lines of ``system.jsonl``.
        artifacts_uploaded: Uploaded files -> SHA-256 of their content.
        versions: Model folder -> ``version``, ``digest`` and ``refused`` (why the version did not
            become champion, or none) of the registered model.
    """

    tracking_uri: str
    run_key: str
    started_ms: int
    run_id: str = ""
    params_uploaded: bool = False
    records_uploaded: int = 0
    system_uploaded: int = 0
    artifacts_uploaded: dict[str, str] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write ``mlflow.json`` into the run folder, whole or not at all."""
        path = folder / _FILE
        temporary = path.with_name(f".{path.name}.{uuid4().hex}")
        temporary.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        temporary.replace(path)


def load_upload_state(folder: Path, uri: str) -> UploadState:
    """Return the saved state for a store; a new one if none is saved or for another store."""
    path = folder / _FILE
    if path.is_file():
        state = UploadState(**json.loads(path.read_text(encoding="utf-8")))
        if state.tracking_uri == uri:
            return state
    return new_upload_state(folder, uri)


def new_upload_state(folder: Path, uri: str) -> UploadState:
    """Return the state of a run before its first upload."""
    return UploadState(uri, uuid4().hex, int((folder / "config.json").stat().st_mtime * 1000))
