"""A made run, its MLflow store, and a port where no server answers."""

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from incremental.model_store import open_store
from incremental.network import NetworkConfig
from tests.federation.tracking.example_run import ExampleRun


@pytest.fixture
def run(empty_store: Path, tmp_path: Path, tiny_network: NetworkConfig) -> ExampleRun:
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    return ExampleRun(tmp_path / "runs" / "first", tiny_network)


@pytest.fixture
def store(run: ExampleRun) -> Callable[[], Any]:
    return lambda: open_store(f"sqlite:///{run.folder.parent / 'mlflow.db'}")


@pytest.fixture(params=["refuses", "is silent"])
def unreachable_port(request: pytest.FixtureRequest) -> Iterator[int]:
    with socket.socket() as taken:  # bound, so that no other process gets it
        taken.bind(("127.0.0.1", 0))
        if request.param == "is silent":
            taken.listen()
        yield taken.getsockname()[1]
