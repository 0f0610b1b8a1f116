import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from federation.console.model_answers import ModelAnswers, ModelUnavailable, draw_heat, draw_image
from federation.console.registry_view import RegistryView
from tests.federation.console.example_console import World


def read(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_an_image_is_drawn_as_it_is() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (np.asarray(read(draw_image(pixels))) == pixels).all()


def test_a_heat_map_is_transparent_at_zero_and_lighter_for_larger_values() -> None:
    heat = np.zeros((8, 8), np.float32)
    heat[:, 4:] = 1.0
    drawn = np.asarray(read(draw_heat(heat)), np.int64)
    assert drawn.shape == (256, 256, 4)
    assert drawn[:, 0, 3].max() == 0 and drawn[:, -1, 3].min() > 180
    ramp = np.asarray(
        read(draw_heat(np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1)))), np.float64
    )[128]
    lightness = ramp[:, :3] @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(lightness[::16]) > 0).all()


def test_without_a_model_the_pages_say_so(world: World) -> None:
    (world.settings.models_folder / "current.json").unlink()
    with pytest.raises(ModelUnavailable, match="no model"):
        world.services.model_answers.predict("north", ["dnorth0"])
    answer = world.client("ada").get("/overlays/north/dnorth0.png?class=liver")
    assert answer.status_code in {404, 503}


def test_an_overlay_of_an_unknown_class_or_image_is_not_there(shared_world: World) -> None:
    ada = shared_world.client("ada")
    assert ada.get("/overlays/north/dnorth0.png?class=kidney").status_code == 404
    assert ada.get("/overlays/north/nothing.png?class=liver").status_code == 404
    assert ada.get("/overlays/north/dnorth0.png").status_code == 422


def test_a_cached_overlay_is_answered_without_a_model(world: World) -> None:
    import hashlib

    name = hashlib.sha256(b"dnorth0\0liver").hexdigest()
    path = world.settings.hospital("north").state / "overlays" / "1" / f"{name}.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(draw_image(np.zeros((4, 4), np.uint8)))
    answer = world.client("ada").get("/overlays/north/dnorth0.png?class=liver")
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (
        200,
        "image/png",
        path.read_bytes(),
    )


class OneMap:
    """Stands in for the worker process: one class, one map, at once."""

    class_names = ("liver",)

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds

    def load(self, folder: Path) -> Any:
        return self

    def overlay(self, pixels: NDArray[Any], class_names: list[str]) -> list[NDArray[Any]]:
        return [np.eye(8)]


def test_simultaneous_requests_for_overlays_of_a_new_model_are_all_answered(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.console.model_answers.ModelWorker", OneMap)
    looks = ModelAnswers(
        world.settings,
        RegistryView(tmp_path / "registry.json", world.settings.models_folder),
        world.services.mirrors,
    )
    kept = world.settings.hospital("north").state / "overlays"
    for version in range(40):
        plain = {"version": str(version), "folder": str(tmp_path)}
        (world.settings.models_folder / "current.json").write_text(json.dumps(plain))
        start = threading.Barrier(3)

        def ask(number: int, start: Barrier = start) -> bytes:
            start.wait()
            return looks.overlay("north", f"dnorth{number}", "liver")

        with ThreadPoolExecutor(3) as threads:
            assert len(set(threads.map(ask, range(3)))) == 1
        assert len(list((kept / str(version)).iterdir())) == 3
    assert len(list(kept.iterdir())) == 3
