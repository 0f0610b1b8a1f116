from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from federation.flare.deployment_check import check
from federation.flare.provisioning import init_deployment
from federation.flare.server import ServerConfig
from physical.mirror import Mirror, MirrorImage

pytest.importorskip("nvflare")


def fill(mirror: Mirror, label: str, count: int, start: int) -> None:
    rng = np.random.default_rng(start)
    grey = {"liver": 60, "spleen": 190}[label]
    images = [
        MirrorImage(
            f"{label}{number}",
            "2026-11-22T08:00:00+00:00",
            "p",
            "s",
            label,
            rng.integers(grey - 40, grey + 40, (28, 28)).astype(np.uint8),
            "png",
        )
        for number in range(start, start + count)
    ]
    mirror.add(images)


def test_hospitals_with_mirrors_of_their_own_learn_what_people_have_named(
    over: Any, tmp_path: Path
) -> None:
    config = over.config("scenario.rounds_per_task=3")
    made = init_deployment(
        config,
        tmp_path / "deployment",
        ServerConfig((), own_images=True),
        host="localhost",
        port=8102,
    )
    places = {name: made.hospital(name) / "fedka" for name in ("east", "north", "south", "west")}
    mirrors = {}
    for number, (name, place) in enumerate(places.items()):
        assert (
            yaml.safe_load((place / "hospital.yaml").read_text())["mirror"] == "mirror"
            and not (place / "archive.safetensors").exists()
        )
        mirrors[name] = Mirror(place / "mirror", 28)
        fill(mirrors[name], "liver", 20, 100 * number)
        fill(mirrors[name], "spleen", 20, 100 * number)
    assert [each.level for each in check(made.folder) if each.what == "mirror"] == ["ok"] * 4
    outcome = over.run(config, places=places)
    assert outcome.rounds[0]["grew"] == ["liver", "spleen"] and all(
        each["images_trained"] for each in outcome.rounds
    )
    assert not any(each["rejected"] for each in outcome.rounds)
    for mirror in mirrors.values():
        mirror.close()
