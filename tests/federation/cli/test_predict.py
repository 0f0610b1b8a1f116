import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from federation.cli import predict as command
from incremental.head import grow_head
from incremental.model_file import ModelError, load_model, save_model
from incremental.model_store import artifact_location, open_store
from incremental.network import IncrementalNetwork, NetworkConfig, initial_weights
from incremental.prediction import predict as predict_batch
from incremental.registry import ModelRegistry
from physical.batch import Batch

ORGANS = ("liver", "spleen", "heart")


@pytest.fixture
def model(tmp_path: Path, tiny_network: NetworkConfig) -> Path:
    weights = grow_head(initial_weights(tiny_network, 1), 3, torch.Generator().manual_seed(5))
    save_model(tmp_path / "model", weights, tiny_network, ORGANS, {"test_accuracy": 0.5})
    return tmp_path / "model"


@pytest.fixture
def png(tmp_path: Path, tiny_batch: Batch) -> Path:
    Image.fromarray(tiny_batch.images[0]).save(tmp_path / "scan.png")
    return tmp_path / "scan.png"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("COLUMNS", "240")
    app = typer.Typer()
    app.command("predict")(command.predict)
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def ask(call: Callable[..., Result], model: Path) -> Callable[..., list[dict[str, Any]]]:
    def answer(*arguments: object) -> list[dict[str, Any]]:
        done = call(*arguments, "--model", model, "--format", "json")
        assert done.exit_code == 0, done.exception
        return list(json.loads(done.stdout))

    return answer


def test_command_prints_the_prediction_of_the_network(
    ask: Callable[..., list[dict[str, Any]]], model: Path, png: Path, tiny_batch: Batch
) -> None:
    network, _ = load_model(model)
    expected = predict_batch(network, tiny_batch.images[:1])
    (found,) = ask(png)
    assert found["class_name"] == ORGANS[expected.rows[0]]
    assert found["probability"] == pytest.approx(float(expected.probabilities.max()))
    assert found["entropy_fraction"] == pytest.approx(float(expected.entropy_fractions[0]))


def test_all_file_formats_of_an_image_give_the_same_prediction(
    ask: Callable[..., list[dict[str, Any]]], tmp_path: Path, tiny_batch: Batch
) -> None:
    grey = tiny_batch.images[3, :, :, 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([grey] * 3, 2)).save(tmp_path / "colour.png")
    np.save(tmp_path / "flat.npy", grey)
    np.save(tmp_path / "stack.npy", np.stack([grey, grey])[..., None])
    found = ask(*(tmp_path / name for name in ("grey.png", "colour.png", "flat.npy", "stack.npy")))
    assert [Path(each["image"]).name for each in found] == [
        "grey.png",
        "colour.png",
        "flat.npy",
        "stack.npy[0]",
        "stack.npy[1]",
    ]
    assert len({(each["class_name"], each["probability"]) for each in found}) == 1


def test_large_image_is_shrunk_with_smoothing(
    ask: Callable[..., list[dict[str, Any]]], png: Path, tmp_path: Path
) -> None:
    with Image.open(png) as picture:
        picture.resize((320, 320), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    small, large = ask(png, tmp_path / "large.png")
    assert large["probability"] == pytest.approx(small["probability"], abs=0.05)


def test_table_is_for_people(call: Callable[..., Result], model: Path, png: Path) -> None:
    shown = call(png, "--model", model)
    assert shown.exit_code == 0
    assert "probability" in shown.stdout
    assert any(name in shown.stdout for name in ORGANS)


def test_champion_of_a_store_predicts_unless_another_model_is_named(
    call: Callable[..., Result], model: Path, png: Path, empty_store: Path, tmp_path: Path
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = open_store(store)
    experiment_id = client.create_experiment("test", artifact_location(store))
    run_id = client.create_run(experiment_id).info.run_id
    registry = ModelRegistry(store, "fedka")
    registry.accept(registry.register(model, run_id, {}))
    named = [
        call(png, *extra, "--format", "json").stdout
        for extra in (["--uri", store], ["--uri", store, "--model", "1"], ["--model", model])
    ]
    assert named[0] == named[1] == named[2]
    assert json.loads(named[0])[0]["class_name"] in ORGANS


@pytest.mark.parametrize(
    "name", ["text.png", "deep.png", "floats.npy", "absent.png", "objects.npy", "empty.npy"]
)
def test_file_that_is_no_8_bit_image_is_one_clear_error(
    call: Callable[..., Result], model: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(tmp_path / "deep.png")
    np.save(tmp_path / "floats.npy", np.zeros((16, 16)))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "empty.npy", np.zeros((0, 16, 16, 3), np.uint8))
    failed = call(tmp_path / name, "--model", model)
    assert isinstance(failed.exception, command.ImageError)
    assert f"{name} cannot be read" in str(failed.exception)
    assert "allowed: 8-bit PNG, JPEG or .npy" in str(failed.exception)


def test_damaged_model_is_refused(call: Callable[..., Result], model: Path, png: Path) -> None:
    (model / "weights.safetensors").write_bytes(b"")
    assert isinstance(call(png, "--model", model).exception, ModelError)


@pytest.mark.slow
def test_overlay_shows_where_the_model_looked(
    ask: Callable[..., list[dict[str, Any]]], png: Path, tmp_path: Path, tiny_network: NetworkConfig
) -> None:
    (found,) = ask(png, "--overlay-dir", tmp_path / "overlays")
    with Image.open(found["overlay"]) as drawn:
        assert drawn.size[0] > 400
    assert found["attention"].endswith(".png")


@pytest.mark.slow
def test_attention_map_without_evidence_is_labelled(
    ask: Callable[..., list[dict[str, Any]]],
    model: Path,
    png: Path,
    tmp_path: Path,
    tiny_network: NetworkConfig,
) -> None:
    network: IncrementalNetwork = load_model(model)[0]
    weights = network.state_dict() | {
        "head.weight": -torch.ones_like(network.head.weight)
    }  # after ReLU all maps speak against all classes
    save_model(model, weights, tiny_network, ORGANS, {})
    (found,) = ask(png, "--overlay-dir", tmp_path / "overlays")
    assert found["attention"].startswith("no positive evidence")
    assert Path(found["overlay"]).is_file()
