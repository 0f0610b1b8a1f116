"""Models of a few weights, held-out images, and an MLflow store per test."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from federation.release.comparison import HeldOut, compare
from federation.release.rules import ReleaseRules, judge
from incremental.head import grow_head
from incremental.model_file import save_model
from incremental.network import NetworkConfig, initial_weights
from incremental.registry import ModelRegistry

NETWORK = NetworkConfig(backbone="lenet", width=4, image_size=16, channels=1)
ORGANS = ("liver", "spleen", "heart", "bladder")
LENIENT = ReleaseRules(
    min_new_class_accuracy=0,
    min_accuracy=0,
    max_calibration_error=1,
    max_loss_per_old_class_points=100,
)


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Make a model folder: as many classes as names, drawn from a seed."""

    def make(class_names: tuple[str, ...], seed: int = 1, accuracy: float | None = 0.9) -> Path:
        weights = grow_head(
            initial_weights(NETWORK, seed), len(class_names), torch.Generator().manual_seed(seed)
        )
        weights["head.weight"] = weights["head.weight"] * 8  # as confident as a trained model
        folder = tmp_path / f"model-{len(class_names)}-{seed}"
        save_model(folder, weights, NETWORK, class_names, {"test_accuracy": accuracy})
        return folder

    return make


@pytest.fixture
def held_out() -> HeldOut:
    """120 noisy images, 30 of each organ, of three hospitals."""
    rng = np.random.default_rng(3)
    level = rng.integers(20, 200, (120, 1, 1))
    images = np.clip(level + rng.normal(0, 40, (120, 16, 16)), 0, 255).astype(np.uint8)
    hospitals = tuple(("north", "east", "south")[number % 3] for number in range(120))
    return HeldOut(
        images,
        tuple(ORGANS[number // 30] for number in range(120)),
        hospitals,
        tuple(f"image-{each}" for each in range(120)),
    )


@pytest.fixture
def compared(tmp_path: Path, held_out: HeldOut) -> Callable[..., Path]:
    """Write the comparison of compared_candidate models, judged by rules."""

    def make(candidate: Path, champion: Path | None, rules: ReleaseRules = LENIENT) -> Path:
        found, _ = compare(candidate, champion, held_out)
        path = tmp_path / f"comparison-{candidate.name}.json"
        path.write_text(json.dumps({**found.as_plain(), "verdict": judge(found, rules).as_plain()}))
        return path

    return make


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> str:
    """Address of a store of this test's own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def registry(store: str) -> ModelRegistry:
    """Registry of the model ``organs`` in that store."""
    return ModelRegistry(store, "organs")
