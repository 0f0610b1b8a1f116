import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from incremental.head import grow_head
from incremental.inference import logits_of
from incremental.model_file import ModelError, load_model, save_model
from incremental.model_store import artifact_location, check_uri, open_store
from incremental.network import NetworkConfig, initial_weights
from incremental.prediction import as_tensor, predict
from incremental.registry import ModelRegistry, RegistryError, refusal_reason
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


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(f"sqlite:///{path}")  # MLflow's migrations take seconds: once is enough
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def run_id(store: str) -> str:
    client = open_store(store)
    experiment = client.create_experiment("test", artifact_location(store))
    return str(client.create_run(experiment).info.run_id)


@pytest.fixture
def model(tmp_path: Path, tiny_network: NetworkConfig) -> Callable[..., Path]:
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
    return ModelRegistry(store, "organs")


@pytest.mark.parametrize(
    ("names", "accuracy", "champion", "least", "expected"),
    [
        (ORGANS, 0.5, (), 0.0, None),
        (ORGANS, 0.5, ORGANS[:2], 0.5, None),
        (ORGANS[::-1], 0.5, ORGANS, 0.0, None),
        (
            ORGANS[:2],
            0.9,
            ORGANS,
            0.0,
            "does not know 2 of the champion's 4 classes: heart, bladder",
        ),
        (ORGANS, 0.4, (), 0.5, "has an accuracy of 0.4000; the least allowed is 0.5000"),
        (ORGANS, float("nan"), (), 0.0, "has an accuracy of nan"),
        (ORGANS, None, (), 0.0, "has no measured accuracy"),
    ],
)
def test_champion_must_know_all_its_predecessor_knew_and_be_good_enough(
    names: tuple[str, ...],
    accuracy: float | None,
    champion: tuple[str, ...],
    least: float,
    expected: str | None,
) -> None:
    assert refusal_reason(names, accuracy, champion, least) == expected


def test_version_carries_the_facts_of_its_manifest(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    folder = model(ORGANS[:2])
    number = registry.register(folder, run_id, {"task": "0"})
    (version,) = registry.list_versions()
    assert (version.version, version.class_names, version.run_id, version.accuracy) == (
        number,
        ORGANS[:2],
        run_id,
        0.9,
    )
    assert version.facts["digest"] == load_model(folder)[1]["digest"]
    assert [
        version.facts[name]
        for name in ("round", "score", "dataset", "dataset_digest", "code_version", "task")
    ] == [*("5", "0.8", "made", "md5:1", "abc", "0")]
    assert version.aliases == ()


def test_registering_twice_gives_one_version(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    folder = model(ORGANS[:2])
    assert registry.register(folder, run_id, {}) == registry.register(folder, run_id, {})
    assert len(registry.list_versions()) == 1


def test_latest_accepted_version_is_champion_and_refused_one_says_why(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    for folder in (model(ORGANS[:2]), model(ORGANS), model(ORGANS[:3])):
        registry.accept(registry.register(folder, run_id, {}))
    first, second, third = registry.list_versions()
    assert (first.aliases, second.aliases, third.aliases) == (("previous",), ("champion",), ())
    assert first.facts["acceptance"] == second.facts["acceptance"] == "accepted"
    assert (
        third.facts["acceptance"] == "refused: does not know 1 of the champion's 4 classes: bladder"
    )


def test_asking_again_for_acceptance_does_not_undo_a_rollback(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    for count in (1, 2):
        registry.accept(registry.register(model(ORGANS[:count]), run_id, {}))
    registry.rollback()
    assert registry.accept(2) is None
    assert registry.find("champion").version == 1


def test_rollback_walks_back_through_all_champions_and_then_says_that_there_is_no_more(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    for count in (1, 2, 3):
        registry.accept(registry.register(model(ORGANS[:count]), run_id, {}))
    assert registry.rollback().version == 2
    assert registry.find("previous").version == 1
    assert registry.find(3).facts["acceptance"] == "rolled back"
    assert registry.rollback().aliases == ("champion",)
    assert [each.aliases for each in registry.list_versions()] == [("champion",), (), ()]
    with pytest.raises(
        RegistryError,
        match=r"its champion is version 1, which replaced none; needed: an earlier champion",
    ):
        registry.rollback()


def test_promotion_overrules_and_can_be_undone(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    for count in (4, 2):
        registry.accept(registry.register(model(ORGANS[:count]), run_id, {}))
    registry.promote(2)
    registry.promote(2)
    champion = registry.champion()
    assert champion is not None
    assert champion.version == 2
    assert registry.rollback().version == 1


def test_alias_that_was_moved_by_hand_is_respected(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str, store: str
) -> None:
    for count in (1, 2, 3):
        registry.accept(registry.register(model(ORGANS[:count]), run_id, {}))
    open_store(store).set_registered_model_alias("organs", "champion", "1")
    assert registry.rollback().version == 3


def test_deleted_version_is_passed_over(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str, store: str
) -> None:
    for count in (1, 2, 3):
        registry.accept(registry.register(model(ORGANS[:count]), run_id, {}))
    open_store(store).delete_model_version("organs", "2")
    assert registry.rollback().version == 1


def test_registered_model_loads_with_the_saved_bits(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    folder = model(ORGANS)
    number = registry.register(folder, run_id, {})
    network, manifest = registry.load(number)
    expected, _ = load_model(folder)
    assert manifest["class_names"] == list(ORGANS)
    assert all(
        torch.equal(value, expected.state_dict()[name])
        for name, value in network.state_dict().items()
    )


def test_stored_weights_that_were_changed_are_refused(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str, tmp_path: Path
) -> None:
    registry.register(model(ORGANS), run_id, {})
    (stored,) = (tmp_path / "mlflow-artifacts").rglob("weights.safetensors")
    stored.write_bytes(stored.read_bytes()[:-8] + bytes(8))
    with pytest.raises(ModelError, match="was changed or cut short"):
        registry.load(1)


def test_version_is_fetched_once_and_again_where_it_was_damaged(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str, tmp_path: Path
) -> None:
    digest = load_model(model(ORGANS))[1]["digest"]
    registry.register(model(ORGANS), run_id, {})
    folder = registry.fetch(1, tmp_path / "here" / "version-1")
    assert load_model(folder)[1]["digest"] == digest
    inode = (folder / "weights.safetensors").stat().st_ino
    assert (registry.fetch(1, folder) / "weights.safetensors").stat().st_ino == inode
    (folder / "weights.safetensors").write_bytes(b"damaged")
    assert load_model(registry.fetch(1, folder))[1]["digest"] == digest
    assert [each.name for each in folder.parent.iterdir()] == ["version-1"]
    registry.tag(1, "digest", "sha256:another")
    with pytest.raises(ModelError, match="is not the model with the digest sha256:another"):
        registry.fetch(1, folder)


def test_damaged_folder_is_not_registered(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    folder = model(ORGANS)
    (folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ModelError):
        registry.register(folder, run_id, {})
    assert registry.list_versions() == []


def test_unknown_version_is_answered_with_the_known_ones(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    with pytest.raises(RegistryError, match="known: none yet"):
        registry.find("champion")
    with pytest.raises(RegistryError, match="its champion is none"):
        registry.rollback()
    registry.accept(registry.register(model(ORGANS), run_id, {}))
    with pytest.raises(RegistryError, match=r"no version or alias '7'; known: 1 \(champion\)"):
        registry.promote(7)


def test_run_that_does_not_exist_is_an_error_of_ours(
    registry: ModelRegistry, model: Callable[..., Path]
) -> None:
    with pytest.raises(RegistryError, match=r"registering .* failed"):
        registry.register(model(ORGANS), "0" * 32, {})


@pytest.mark.parametrize(
    "uri",
    ["", "mlruns", "file:///tmp/x", "postgresql://host/db", "sqlite:///", "http://", "databricks"],
)
def test_address_of_another_kind_of_store_is_refused(uri: str) -> None:
    with pytest.raises(RegistryError, match="put an MLflow server in front"):
        check_uri(uri)


def test_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(RegistryError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        check_uri("https://doctor:secret@hospital.example")
    assert "secret" not in str(caught.value)


def test_unusable_file_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text(
        "this is no database, and long enough to be taken for one " * 20
    )
    for path in (tmp_path / "text.db", tmp_path / "text.db" / "mlflow.db"):
        with pytest.raises(RegistryError, match="cannot be used"):
            ModelRegistry(f"sqlite:///{path}", "organs")


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


def test_registry_leaves_mlflow_as_it_is(
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
