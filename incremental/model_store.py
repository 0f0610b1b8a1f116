"""MLflow store of the model registry: check its address, open it, upload a model."""

import fcntl
import logging
import os
import shutil
import socket
import sqlite3
import tempfile
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

_SQLITE = "sqlite:///"
_CONNECT_SECONDS = 5
_REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "safetensors", "jaxtyping", "pydantic")


class RegistryError(ValueError):
    """A request that the store of models cannot fulfil."""


def check_uri(uri: str) -> str:
    """Return the address of a store, with an absolute path, without opening it.

    Raises:
        RegistryError: If it is not the address of a store, or contains a password.
    """
    parts = urlsplit(uri)
    if parts.password:
        raise RegistryError(
            f"the address of the store at {parts.hostname} holds a password; allowed: "
            "http(s)://host[:port]; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
            "instead"
        )
    if parts.scheme in ("http", "https") and parts.hostname:
        return uri
    if uri.startswith(_SQLITE) and uri.removeprefix(_SQLITE):
        return _SQLITE + str(Path(uri.removeprefix(_SQLITE)).absolute())
    raise RegistryError(
        f"the address of the store is {uri!r}; allowed: sqlite:///path/to/mlflow.db, "
        "http://host:port or https://host:port; put an MLflow server in front of any other "
        "database"
    )


def open_store(uri: str) -> Any:
    """Return an ``MlflowClient`` of a store; a missing SQLite file is made.

    Raises:
        RegistryError: If the address is wrong, or the file or server cannot be used.
    """
    uri = check_uri(uri)
    _configure_mlflow()
    if not uri.startswith(_SQLITE):
        _check_answers(uri)
        return _connect(uri)
    path = Path(uri.removeprefix(_SQLITE))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two processes must not make the tables at once
            # Fails at once on an unusable file; MLflow would try again for minutes.
            with closing(sqlite3.connect(path, timeout=5)) as connection:
                connection.execute("BEGIN IMMEDIATE")
            return _connect(uri)
    except (OSError, sqlite3.Error) as error:
        raise RegistryError(
            f"the store {path} cannot be used: {error}; needed: an SQLite file in a folder that "
            "can be written; name another place"
        ) from error


def _check_answers(uri: str) -> None:
    """Check within seconds that a server answers at an address; MLflow would try for minutes."""
    parts = urlsplit(uri)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), _CONNECT_SECONDS).close()
    except OSError as error:
        raise RegistryError(
            f"the store at {parts.hostname}:{port} does not answer within {_CONNECT_SECONDS} s: "
            f"{error}; needed: an MLflow server that runs; check the address and try again"
        ) from None


def artifact_location(uri: str) -> str | None:
    """Return where a new experiment's files go: beside an SQLite file; none: a server decides."""
    if not uri.startswith(_SQLITE):
        return None
    return (Path(uri.removeprefix(_SQLITE)).parent / "mlflow-artifacts").as_uri()


def upload_model(
    client: Any, model_folder: Path, run_id: str, input_example: NDArray[np.uint8]
) -> tuple[str, str]:
    """Upload a model, with the code of package ``incremental``, as a logged model of a run.

    Args:
        client: An ``MlflowClient``.
        model_folder: Folder written by ``save_model``.
        run_id: The MLflow run.
        input_example: 8-bit images, shape [N, H, W, C].

    Returns:
        MLflow's identifier of the logged model, and the address of its files.
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    package = Path(__file__).parent
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, -1))]),
        outputs=Schema(
            [
                ColSpec("string", "class_name"),
                ColSpec("float", "probability"),
                ColSpec("float", "entropy_fraction"),
            ]
        ),
        params=ParamSchema([ParamSpec("all_probabilities", "boolean", False)]),
    )
    experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment_id, name=model_folder.name, source_run_id=run_id)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "model"
        mlflow.pyfunc.save_model(
            place,
            python_model=str(package / "served_model.py"),
            artifacts={"model": str(model_folder)},
            code_paths=[str(package)],
            signature=signature,
            input_example=input_example,
            pip_requirements=[
                f"{each}=={metadata.version(each).split('+')[0]}" for each in _REQUIREMENTS
            ],
            mlflow_model=Model(
                artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id
            ),
        )
        for cache in list(place.rglob("__pycache__")):
            shutil.rmtree(cache)
        client.log_model_artifacts(logged.model_id, str(place))
    client.finalize_logged_model(logged.model_id, "READY")
    # Not models:/<id>, which MLflow would look up in its process-wide store.
    return logged.model_id, logged.artifact_location


def _configure_mlflow() -> None:
    """Set what MLflow reads at import: no pickle, no telemetry, no output on the console."""
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        # MLflow's defaults, 120 s and 7 retries, look like a hang.
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    }.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _connect(uri: str) -> Any:
    from mlflow import MlflowClient  # 2-4 s

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    # Makes the tables of a new SQLite file; fails if a server does not answer.
    client.search_experiments(max_results=1)
    return client
