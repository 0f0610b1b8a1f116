import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from incremental.head import grow_head
from incremental.inference import logits_of
from incremental.model_file import load_model, save_model
from incremental.network import NetworkConfig, initial_weights
from incremental.prediction import as_tensor, predict
from incremental.registry import ModelRegistry
from physical.batch import Batch

ORGANS = ("liver", "spleen", "heart", "bladder")
ELSEWHERE = """
import json, sys
from pathlib import Path
repository, store, images, out = sys.argv[1:]
sys.path = [each for each in sys.path if Path(each).resolve() != Path(repository)]
sys.meta_path = [each for each in sys.meta_path if "editable" not in repr(each).lower()]
try:
    import incremental
except ImportError:
    incremental = None
assert incremental is None, "the repository is still within reach"
import mlflow
import numpy as np
mlflow.set_tracking_uri(store)
model = mlflow.pyfunc.load_model("models:/organs@champion")
found = model.predict(np.load(images), params={"all_probabilities": True})
import incremental
found.to_json(out, orient="split", double_precision=15)
print(json.dumps({"package": incremental.__file__,
"loaded": sorted(name for name in sys.modules if name in ("physical", "twin",
"federation"))}))
"""


def test_champion_served_by_mlflow_alone_gives_the_accuracy_that_was_measured(
    store: str, run_id: str, tiny_network: NetworkConfig, tiny_batch: Batch, tmp_path: Path
) -> None:
    weights = grow_head(initial_weights(tiny_network, 3), 9, torch.Generator().manual_seed(4))
    save_model(
        tmp_path / "task-2", weights, tiny_network, tiny_batch.vocabulary, {"test_accuracy": 0.5}
    )
    network, _ = load_model(tmp_path / "task-2")
    many = np.tile(tiny_batch.images, (2, 1, 1, 1))  # 360 images: more than one batch of 256
    measured = float(
        (
            logits_of(network, as_tensor(many, 3)).argmax(1).numpy()
            == np.tile(tiny_batch.labels, 2)
        ).mean()
    )
    registry = ModelRegistry(store, "organs")
    registry.accept(registry.register(tmp_path / "task-2", run_id, {}, many[:1]))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    np.save(elsewhere / "images.npy", many)
    (elsewhere / "serve.py").write_text(ELSEWHERE)
    repository = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    done = subprocess.run(
        [sys.executable, "serve.py", str(repository), store, "images.npy", "found.json"],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert str(tmp_path / "mlflow-artifacts") in said["package"]
    assert said["loaded"] == []
    found = json.loads((elsewhere / "found.json").read_text())
    served = dict(zip(found["columns"], zip(*found["data"], strict=True), strict=True))
    right = np.array(served["class_name"]) == np.tile(
        np.array(tiny_batch.vocabulary)[tiny_batch.labels], 2
    )
    assert abs(float(right.mean()) - measured) < 1e-6
    expected = predict(network, many)
    probabilities = np.array([served[f"probability_of_{name}"] for name in tiny_batch.vocabulary]).T
    assert np.array_equal(probabilities.astype(np.float32), expected.probabilities)
    assert np.array_equal(
        np.array(served["entropy_fraction"], np.float32), expected.entropy_fractions
    )


def test_what_is_stored_holds_no_pickle_and_only_the_package_of_the_model(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str, tmp_path: Path
) -> None:
    registry.register(model(ORGANS), run_id, {})
    stored = [path for path in (tmp_path / "mlflow-artifacts").rglob("*") if path.is_file()]
    assert {path.suffix for path in stored} <= {".py", ".json", ".yaml", ".txt", ".safetensors", ""}
    (code,) = (tmp_path / "mlflow-artifacts").rglob("code")
    assert [path.name for path in code.iterdir()] == ["incremental"]


def test_registry_leaves_mlflows_global_state_alone(
    store: str,
    model: Callable[..., Path],
    run_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    before = mlflow.get_tracking_uri()
    registry = ModelRegistry(store, "organs")
    registry.accept(registry.register(model(ORGANS), run_id, {}))
    registry.load()
    assert mlflow.get_tracking_uri() == before
    assert mlflow.active_run() is None
    assert list(here.iterdir()) == []
