"""Shared by tests of several packages: an empty MLflow store, and the modules that code imports."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store to copy: its database migrations take seconds, so they run once."""
    from incremental.model_store import open_store

    path = tmp_path_factory.mktemp("empty-store") / "mlflow.db"
    open_store(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def modules_imported_by() -> Callable[[str], set[str]]:
    """Return the names of all modules that a new process imports for a statement."""

    def run(statement: str) -> set[str]:
        code = f"import sys; {statement}; print(' '.join(sys.modules))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        return set(done.stdout.split())

    return run
