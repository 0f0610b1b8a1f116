"""A small world for tests: made images of nine classes, a network of 1,000 weights, 3 hospitals."""

import os
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

from physical.batch import Batch

if TYPE_CHECKING:
    from federation.engines.simulated_hospitals import SimulatedHospitals
    from incremental.network import NetworkConfig
    from twin.config import TwinSetting

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # read when torch is imported; networks this small are slower with more threads
set_hypothesis_home_dir(Path(gettempdir()) / "hypothesis")  # nothing is written into the repository
hypothesis.settings.register_profile(
    "house", database=None, deadline=None, derandomize=True, max_examples=30
)
hypothesis.settings.load_profile("house")

COLOURS = ("red", "green", "blue")
PATTERNS = ("plain", "lying", "standing")
IMAGES_PER_CLASS = 20
SIDE = 16


@pytest.fixture(scope="session")
def tiny_batch() -> Batch:
    """Nine classes, colour times direction of stripes, 20 learnable images of 16 x 16 x 3 each."""
    rng = np.random.default_rng(7)
    stripes = np.where(np.arange(SIDE) % 4 < 2, 1.0, 0.1)
    patterns = [
        np.full((SIDE, SIDE), 0.6),
        np.tile(stripes[:, None], (1, SIDE)),
        np.tile(stripes, (SIDE, 1)),
    ]
    images, labels = [], []
    for label in range(len(COLOURS) * len(PATTERNS)):
        colour, pattern = divmod(label, len(PATTERNS))
        tint = np.full(3, 0.15)
        tint[colour] = 0.85
        clean = patterns[pattern][:, :, None] * tint
        noise = rng.normal(0, 0.05, (IMAGES_PER_CLASS, SIDE, SIDE, 3)) + rng.normal(
            0, 0.03, (IMAGES_PER_CLASS, 1, 1, 1)
        )
        images.append(np.clip((clean + noise) * 255, 0, 255).astype(np.uint8))
        labels.append(np.full(IMAGES_PER_CLASS, label))
    names = tuple(f"{colour}-{pattern}" for colour in COLOURS for pattern in PATTERNS)
    return Batch(np.concatenate(images), np.concatenate(labels), names)


@pytest.fixture(scope="session")
def tiny_network() -> "NetworkConfig":
    """A LeNet of 4 channels for images of 16 px."""
    from incremental.network import NetworkConfig

    return NetworkConfig(backbone="lenet", width=4, image_size=SIDE)


@pytest.fixture(scope="session")
def tiny_setting(tiny_network: "NetworkConfig") -> "TwinSetting":
    """What all twins share: a memory of 12, no augmentation, two epochs, a jump of 0.05 ln C."""
    from incremental.detection import DetectionConfig
    from physical.transforms import AugmentationConfig
    from twin.config import TwinConfig, TwinSetting
    from twin.local_training import TrainingConfig

    training = TrainingConfig(
        epochs=2,
        batch_size=16,
        learning_rate=0.2,
        schedule="constant",
        augmentation=AugmentationConfig(crop_padding_pixels=0, brightness=0.0),
    )
    twin = TwinConfig(memory_capacity=12, detection=DetectionConfig(jump_fraction=0.05))
    return TwinSetting(twin, tiny_network, training, rounds_per_task=2)


@pytest.fixture(scope="session")
def tiny_hospitals(tiny_batch: Batch, tiny_setting: "TwinSetting") -> "SimulatedHospitals":
    """Three hospitals, one of which joins at the second of three tasks; images have one owner."""
    from federation.engines.simulated_hospitals import SimulatedHospitals
    from physical.planning import plan_scenario
    from physical.protocol import HospitalConfig, ScenarioConfig

    config = ScenarioConfig(
        "made",
        num_tasks=3,
        classes_per_task=3,
        rounds_per_task=2,
        heterogeneity=0.67,
        images="disjoint",
    )
    hospitals = (
        HospitalConfig("north"),
        HospitalConfig("south"),
        HospitalConfig("east", joins_at_task=1),
    )
    scenario = plan_scenario(tiny_batch.labels, tiny_batch.vocabulary, config, hospitals, seed=1)
    return SimulatedHospitals(
        tiny_batch,
        scenario.arrivals,
        {
            name: plan.joins_at_task * config.rounds_per_task
            for name, plan in scenario.hospitals.items()
        },
        tiny_setting,
    )
