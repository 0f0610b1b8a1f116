from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from incremental.explanation import explain
from incremental.head import grow_head
from incremental.inference import logits_of
from incremental.model_file import ModelError, load_model, save_model
from incremental.network import NetworkConfig, build_network, initial_weights, weights_of
from incremental.prediction import as_tensor, predict
from twin.review.image_model import ImageModel

CLASSES = ("heart", "liver", "spleen", "bladder")


def saved_model(
    folder: Path, backbone: Any = "resnet10", classes: tuple[Any, ...] = CLASSES, seed: int = 1
) -> Path:
    config = NetworkConfig(backbone=backbone, width=8, image_size=16)
    network = build_network(
        config,
        grow_head(initial_weights(config, seed), len(classes), torch.Generator().manual_seed(seed)),
    )
    with torch.no_grad():
        network.train()(
            torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        )  # statistics that are no newborn's
    save_model(folder, weights_of(network), config, classes, {})
    return folder


@pytest.fixture(scope="module", params=["resnet10", "lenet"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("model") / request.param, request.param)


def images_of(count: int = 5, side: int = 16) -> NDArray[Any]:
    return np.random.default_rng(3).integers(0, 256, (count, side, side)).astype(np.uint8)


def test_logits_are_those_of_the_inference_code_bit_for_bit(folder: Path) -> None:
    network, manifest = load_model(folder)
    images = images_of(600)
    looks = ImageModel(folder).look(images)
    assert np.array_equal(looks.logits, logits_of(network, as_tensor(images, 3)).numpy())
    assert np.array_equal(looks.entropy_fractions, predict(network, images).entropy_fractions)
    assert np.array_equal(looks.rows, predict(network, images).rows)
    assert looks.features.dtype == looks.logits.dtype == np.float32
    assert looks.model == manifest["digest"]


def test_images_of_another_size_are_looked_at_as_the_network_resizes_them(folder: Path) -> None:
    assert ImageModel(folder).look(images_of(3, side=40)).logits.shape == (3, 4)


def test_no_images_are_no_looks(folder: Path) -> None:
    looks = ImageModel(folder).look(images_of(0))
    assert len(looks) == 0
    assert looks.logits.shape == (0, 4)


def test_overlays_are_the_explanations_of_the_model(folder: Path) -> None:
    network, _ = load_model(folder)
    images, rows = images_of(), [0, 1, 2, 3, 1]
    heats = ImageModel(folder).overlay(images, [CLASSES[row] for row in rows])
    expected = explain(network, as_tensor(images, 3) / 255, rows)
    assert any(heat is not None for heat in heats)
    for heat, each in zip(heats, expected, strict=True):
        assert np.array_equal(np.zeros_like(each) if heat is None else heat, each)


def test_overlays_of_many_images_are_those_of_each_alone(folder: Path) -> None:
    looker, images = ImageModel(folder), images_of(300)
    names = [CLASSES[index % 4] for index in range(300)]
    together = looker.overlay(images, names)
    for index in (0, 7, 299):
        (alone,) = looker.overlay(images[index : index + 1], [names[index]])
        assert (alone is None) == (together[index] is None)
        if alone is not None:
            np.testing.assert_allclose(cast(Any, together[index]), cast(Any, alone), atol=1e-5)


def test_where_nothing_speaks_for_a_class_there_is_no_overlay(tmp_path: Path) -> None:
    network, manifest = load_model(saved_model(tmp_path / "first"))
    weights = weights_of(network)
    weights["head.weight"][1] = -weights["head.weight"][
        1
    ].abs()  # the features are never negative: all speaks against row 1
    weights["head.weight"][2] = weights["head.weight"][2].abs()
    save_model(tmp_path / "model", weights, network.config, manifest["class_names"], {})
    against, pro = ImageModel(tmp_path / "model").overlay(images_of(2), ["liver", "spleen"])
    assert against is None
    assert pro is not None
    assert pro.max() > 0.9


def test_looking_after_an_overlay_sees_the_same(folder: Path) -> None:
    looker, images = ImageModel(folder), images_of()
    before = looker.look(images)
    looker.overlay(images, ["liver"] * 5)
    assert np.array_equal(looker.look(images).logits, before.logits)


@pytest.mark.parametrize(
    ("images", "names"), [(images_of(2), ["liver"]), (images_of(1), ["pancreas"])]
)
def test_an_overlay_needs_a_known_class_for_each_image(
    folder: Path, images: NDArray[Any], names: list[str]
) -> None:
    with pytest.raises(ModelError, match="ask for a class that this model knows"):
        ImageModel(folder).overlay(images, names)


def test_images_that_are_no_images_are_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="convert them first"):
        ImageModel(folder).look(np.zeros((2, 16, 16, 7), np.uint8))


def test_a_model_that_knows_nothing_cannot_look(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="0 classes"):
        ImageModel(saved_model(tmp_path / "empty", "lenet", classes=()))
