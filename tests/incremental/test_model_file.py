import json
from pathlib import Path
from typing import Any

import pytest
import torch

from incremental.head import Weights, grow_head
from incremental.model_file import ModelError, load_model, read_manifest, save_model
from incremental.network import NetworkConfig, initial_weights

NAMES = ("liver", "kidney-left", "spleen")


@pytest.fixture
def weights(tiny_network: NetworkConfig) -> Weights:
    return grow_head(initial_weights(tiny_network, 1), 3, torch.Generator().manual_seed(2))


@pytest.fixture
def folder(tmp_path: Path, weights: Weights, tiny_network: NetworkConfig) -> Path:
    save_model(
        tmp_path / "models" / "task-0",
        weights,
        tiny_network,
        NAMES,
        {"round": 4, "score": None, "dataset": "made"},
    )
    return tmp_path / "models" / "task-0"


def test_loaded_model_holds_the_saved_bits(
    folder: Path, weights: Weights, tiny_network: NetworkConfig
) -> None:
    network, _ = load_model(folder)
    assert network.config == tiny_network
    assert not network.training
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_manifest_holds_names_architecture_digest_and_facts(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest["class_names"] == list(NAMES)
    assert manifest["architecture"]["backbone"] == "lenet"
    assert manifest["digest"].startswith("sha256:")
    assert (manifest["round"], manifest["score"], manifest["dataset"]) == (4, None, "made")


def test_digest_depends_on_the_weights_alone(
    tmp_path: Path, weights: Weights, tiny_network: NetworkConfig
) -> None:
    first = save_model(tmp_path / "a", weights, tiny_network, NAMES, {"round": 1})
    same = save_model(tmp_path / "b", weights, tiny_network, NAMES, {"round": 2})
    other = save_model(
        tmp_path / "c", {**weights, "head.bias": weights["head.bias"] + 1}, tiny_network, NAMES, {}
    )
    assert first == same != other


def test_saving_again_replaces_the_model_and_leaves_nothing_beside_it(
    folder: Path, weights: Weights, tiny_network: NetworkConfig
) -> None:
    save_model(folder, weights, tiny_network, NAMES[::-1], {"round": 9})
    assert load_model(folder)[1]["class_names"] == list(NAMES[::-1])
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]


def test_number_that_is_not_finite_becomes_null(
    tmp_path: Path, weights: Weights, tiny_network: NetworkConfig
) -> None:
    save_model(tmp_path / "model", weights, tiny_network, NAMES, {"score": float("nan")})
    assert read_manifest(tmp_path / "model")["score"] is None


@pytest.mark.parametrize("names", [NAMES[:2], (*NAMES, "heart"), ("liver", "liver", "spleen")])
def test_names_that_do_not_fit_the_head_are_refused(
    tmp_path: Path, weights: Weights, tiny_network: NetworkConfig, names: tuple[str, ...]
) -> None:
    with pytest.raises(ModelError, match=r"3 rows of the head; allowed: one name per row"):
        save_model(tmp_path / "model", weights, tiny_network, names, {})
    assert not list(tmp_path.iterdir())


def test_facts_cannot_overrule_the_manifest(
    tmp_path: Path, weights: Weights, tiny_network: NetworkConfig
) -> None:
    with pytest.raises(ModelError, match="facts hold digest"):
        save_model(tmp_path / "model", weights, tiny_network, NAMES, {"digest": "sha256:0"})


def test_disk_that_cannot_be_written_is_a_model_error(
    tmp_path: Path, weights: Weights, tiny_network: NetworkConfig
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="could not be written"):
        save_model(tmp_path / "file" / "model", weights, tiny_network, NAMES, {})


def test_changed_weights_are_refused(folder: Path) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="was changed or cut short"):
        load_model(folder)


def test_weights_cut_short_are_refused(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="was changed or cut short"):
        load_model(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json"])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{name} cannot be read"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ["liver"]}, "1 class names"),
        ({"architecture": {"backbone": "lenet", "width": 8}}, "do not fit together"),
        ({"architecture": {"backbone": "transformer"}}, "do not fit together"),
        ({"architecture": None}, "do not fit together"),
    ],
)
def test_manifest_that_does_not_fit_the_weights_is_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    (folder / "manifest.json").write_text(json.dumps({**read_manifest(folder), **change}))
    with pytest.raises(ModelError, match=message):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "[]", '{"class_names": []}'])
def test_file_that_is_not_a_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ModelError, match=r"manifest\.json"):
        load_model(folder)
