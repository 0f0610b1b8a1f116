from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.attacks.contact_sheet import draw
from benchmarks.attacks.gradient_inversion import DEFENCES, judge, report
from benchmarks.attacks.inversion import AttackConfig
from benchmarks.attacks.uploaded_prototypes import Material, baselines, experiment, gather
from physical.batch import Batch
from physical.datasets import entry_of
from physical.datasets.dataset import ImageDataset

NAMES = tuple(f"organ-{index}" for index in range(11))


@pytest.fixture(scope="module")
def material() -> Material:
    rng = np.random.default_rng(1)
    labels = np.arange(132) % 11
    images = (rng.integers(0, 60, (132, 28, 28, 1)) + 15 * labels[:, None, None, None]).astype(
        np.uint8
    )
    batch = Batch(images, labels.astype(np.int64), NAMES)
    data = ImageDataset(
        replace(entry_of("organamnist").sheet, class_names=NAMES), batch, batch, batch, "md5:made"
    )
    return gather(experiment(2, 2, 8, 1), data)


def test_prototypes_are_images_of_their_class_one_of_each_and_hospital(material: Material) -> None:
    assert sorted(material.rows.tolist()) == sorted(2 * list(range(11)))
    for image, row in zip(material.real, material.rows.tolist(), strict=True):
        assert (material.candidates[row] == image).flatten(1).all(1).any()
    assert len(set(map(id, material.networks))) == 2


def test_a_perfect_guess_identifies_and_a_baseline_does_not(material: Material) -> None:
    assert material.likeness(material.real).identified == 1.0
    shown = baselines(material, 1)
    assert material.likeness(shown["nearest other image of its class"]).identified == 0.0
    assert material.likeness(shown["noise"]).ssim < 0.2


def test_a_defence_is_judged_and_reported(material: Material) -> None:
    tiny = AttackConfig(steps=2, restarts=1, polish_steps=1)
    bare = replace(
        DEFENCES[0], perturbation=replace(DEFENCES[0].perturbation, invert_steps=20), attack=tiny
    )
    found = judge(material, bare, 1)
    assert found.labels == 1.0
    assert found.strong.ssim >= found.proxy.ssim
    said = report(material, {bare.name: found}, baselines(material, 1))
    assert "reconstruction: null" in said
    assert bare.name in said


def test_a_contact_sheet_has_a_row_for_each_way_and_a_column_for_each_image(tmp_path: Path) -> None:
    from PIL import Image

    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    draw(
        {"real": images, "guess": images},
        ["a", "b", "c"],
        "credit",
        tmp_path / "sheets" / "sheet.png",
    )
    with Image.open(tmp_path / "sheets" / "sheet.png") as sheet:
        assert sheet.size == (200 + 3 * 90, 28 + 2 * 90 + 28)
        assert sheet.mode == "L"
