"""Tests with a small untrained model: the worker process, and the intake loop of a hospital."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from federation.console.hospital_loop import HospitalLoop
from federation.console.twin_view import twin_view
from tests.federation.console.example_console import World
from twin.review.model_worker import ModelWorker

pytestmark = pytest.mark.slow
SIDE = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from incremental.head import grow_head
    from incremental.model_file import save_model
    from incremental.network import NetworkConfig, initial_weights

    folder = tmp_path_factory.mktemp("models") / "version-1"
    config = NetworkConfig(backbone="lenet", width=4, image_size=SIDE)
    save_model(
        folder,
        grow_head(initial_weights(config, 1), 2, torch.Generator().manual_seed(1)),
        config,
        ("liver", "spleen"),
        {},
    )
    return folder


@pytest.fixture(scope="module")
def worker() -> Iterator[ModelWorker]:
    with ModelWorker(timeout_seconds=900.0) as one:
        yield one


def serve(world: World, model: Path, version: str = "1") -> None:
    plain = {"version": version, "folder": str(model)}
    (world.settings.models_folder / "current.json").write_text(json.dumps(plain))


def test_overlays_and_predictions_come_from_the_model_that_serves(
    world_with: Callable[..., World], model: Path
) -> None:
    world = world_with(explain_seconds=900)
    serve(world, model)
    ada = world.client("ada")
    answer = ada.get("/overlays/north/dnorth0.png?class=liver")
    assert answer.status_code == 200 and Image.open(io.BytesIO(answer.content)).mode == "RGBA"
    kept = list((world.settings.hospital("north").state / "overlays" / "1").iterdir())
    assert len(kept) == 1 and kept[0].stat().st_mode & 0o077 == 0
    said = ada.post("/api/v1/predictions", json={"image_ids": ["dnorth0", "dnorth1"]}).json()
    assert said["version"] == "1" and [each["image_id"] for each in said["predictions"]] == [
        "dnorth0",
        "dnorth1",
    ]
    assert all(
        0 <= each["entropy"] <= 1 and each["top"][0][0] == each["class_name"]
        for each in said["predictions"]
    )
    serve(world, model, "2")
    assert ada.post("/api/v1/predictions", json={"image_ids": ["dnorth0"]}).json()["version"] == "2"
    assert ada.post("/api/v1/predictions", json={"image_ids": ["dsouth0"]}).status_code == 404


def test_a_damaged_model_is_a_503_and_nothing_else_breaks(world: World, tmp_path: Path) -> None:
    serve(world, tmp_path / "nothing")
    ada = world.client("ada")
    assert ada.post("/api/v1/predictions", json={"image_ids": ["dnorth0"]}).status_code == 503
    assert ada.get("/overlays/north/dnorth0.png?class=liver").status_code == 503
    assert ada.get(f"/cases/{world.cases['north']}").status_code == 200


def test_a_hospital_loop_takes_images_in_and_logs_the_state_of_its_twin(
    world_with: Callable[..., World], model: Path, worker: ModelWorker
) -> None:
    world = world_with(intake={"settle_seconds": 0})
    loop = HospitalLoop(world.settings, "north", world.services.store, worker, world.clock)
    before = twin_view(world.services, "north")
    assert before.reported_version is None and not before.in_step
    serve(world, model)
    inbox = world.settings.hospital("north").inbox
    Image.fromarray(np.full((20, 20), 90, np.uint8)).save(inbox / "one.png")
    (inbox / "two.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert loop.run_once()
    after = twin_view(world.services, "north")
    assert (after.num_images, after.quarantine) == (
        before.num_images + 1,
        {"unreadable": 1},
    ) or after.num_images == before.num_images + 1
    assert sum(after.quarantine.values()) == 1
    assert (after.reported_version, after.reported_classes, after.in_step) == (
        "1",
        ("liver", "spleen"),
        True,
    )
    assert [each.what for each in after.events] == ["look", "model", "quarantine", "images"]
    assert "history" in after.events[0].text  # too few named images to judge by
    assert len(after.entropy) == 1 and 0 <= after.entropy[0][1] <= 1
    assert not loop.run_once()
