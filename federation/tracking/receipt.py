"""How far the copy of a run has come. Knows no MLflow."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

_FILE = "mlflow.json"


@dataclass
class Receipt:
    """How far the copy of a run has come; saved as ``mlflow.json``.

    Args:
        tracking_uri: The store.
        run_key: Marks the run in the store, so that it is found again if we die before its identifier is saved.
        started_ms: When the run began; a record's time is counted from here, so that repeating an upload repeats its numbers.
        run_id: MLflow's identifier of the run; empty: not made yet.
        params_uploaded: Whether the configuration is there.
        records_uploaded: Lines of ``records.jsonl`` that are there.
        system_uploaded: Lines of ``system.jsonl`` that are there.
        artifacts_uploaded: Files that are there, with the digest of what was uploaded.
        versions: Registered models by folder: ``version``, ``digest``, ``refused`` (why it is not champion, or none).
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
        """Write the receipt into its run folder."""
        path = folder / _FILE
        beside = path.with_name(f".{path.name}.{uuid4().hex}")
        beside.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        beside.replace(path)


def load_receipt(folder: Path, uri: str) -> Receipt:
    """Return a run's receipt for a store; a new one if none was written, or for another store."""
    path = folder / _FILE
    if path.is_file():
        receipt = Receipt(**json.loads(path.read_text(encoding="utf-8")))
        if receipt.tracking_uri == uri:
            return receipt
    return new_receipt(folder, uri)


def new_receipt(folder: Path, uri: str) -> Receipt:
    """Return the receipt of a run of which nothing is uploaded."""
    return Receipt(uri, uuid4().hex, int((folder / "config.json").stat().st_mtime * 1000))
