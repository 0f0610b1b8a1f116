"""A store of models with a registry, and models to register."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from incremental.head import grow_head
from incremental.model_file import save_model
from incremental.model_store import artifact_location, open_store
from incremental.network import NetworkConfig, initial_weights
from incremental.registry import ModelRegistry


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, made once, as MLflow takes seconds to make its tables."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> str:
    """Address of a store of this test's own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def run_id(store: str) -> str:
    """An MLflow run in that store."""
    client = open_store(store)
    experiment = client.create_experiment("test", artifact_location(store))
    return str(client.create_run(experiment).info.run_id)


@pytest.fixture
def model(tmp_path: Path, tiny_network: NetworkConfig) -> Callable[..., Path]:
    """Save a model of the given classes and return its folder."""

    def make(class_names: tuple[str, ...], accuracy: float | None = 0.9, seed: int = 1) -> Path:
        weights = grow_head(
            initial_weights(tiny_network, seed),
            len(class_names),
            torch.Generator().manual_seed(seed),
        )
        folder = tmp_path / f"task-{len(class_names)}-{seed}"
        facts = {
            "round": 5,
            "score": 0.8,
            "test_accuracy": accuracy,
            "dataset": "made",
            "dataset_digest": "md5:1",
            "code_version": "abc",
        }
        save_model(folder, weights, tiny_network, class_names, facts)
        return folder

    return make


@pytest.fixture
def registry(store: str) -> ModelRegistry:
    """Registry of the model ``organs`` in that store."""
    return ModelRegistry(store, "organs")
