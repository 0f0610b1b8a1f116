import numpy as np
import pytest
import yaml

from federation.config import load_experiment
from federation.experiment import run_experiment
from federation.flare.check import check
from federation.flare.deploy import init_deployment
from federation.flare.serving import ServerConfig
from physical.mirror import Mirror, MirrorImage
from tests.federation.flare.test_engine import ROOT, SMALL, Wires, engine_over

pytest.importorskip("nvflare")


def fill(mirror, label, count, start):
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


def test_hospitals_with_mirrors_of_their_own_learn_what_people_have_named(tmp_path):
    changes = (*SMALL, "method=fedavg", "scenario.rounds_per_task=3", "scenario.dataset=phantom_axial")
    config = load_experiment(ROOT / "hospital_configs" / "phantom_tiny", changes)
    made = init_deployment(config, tmp_path / "deployment", ServerConfig((), own_images=True), host="localhost", port=8102)
    places = {name: made.hospital(name) / "fedka" for name in ("east", "north", "south", "west")}
    mirrors = {}
    for number, (name, place) in enumerate(places.items()):
        assert yaml.safe_load((place / "hospital.yaml").read_text())["mirror"] == "mirror" and not (place / "archive.safetensors").exists()
        mirrors[name] = Mirror(place / "mirror", 28)
        fill(mirrors[name], "liver", 20, 100 * number)
        fill(mirrors[name], "spleen", 20, 100 * number)
    assert [each.level for each in check(made.folder) if each.what == "mirror"] == ["ok"] * 4
    results = run_experiment(config, tmp_path / "run", engine_for=engine_over(Wires(places), config))
    assert results["images_trained"] > 0 and results["rejected_updates"] == 0
    for mirror in mirrors.values():
        mirror.close()
