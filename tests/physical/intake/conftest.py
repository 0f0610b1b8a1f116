"""A hospital's folder with an intake, and CT files to put into its inbox."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from physical.datasets.phantom_dicom import ct_dataset, dicom_bytes, make_identity, make_uid
from physical.intake.config import IntakeConfig
from physical.intake.folder import FolderIntake
from physical.intake.pseudonyms import KEY_BYTES, Pseudonyms
from physical.mirror import Mirror
from tests.physical.intake.hospital_folder import Clock, HospitalFolder

SIZE = 16


@pytest.fixture
def pseudonyms() -> Pseudonyms:
    return Pseudonyms(bytes(range(KEY_BYTES)))


@pytest.fixture
def make_hospital(tmp_path: Path, pseudonyms: Pseudonyms) -> Callable[..., HospitalFolder]:
    def make(name: str = "hospital", **changes: Any) -> HospitalFolder:
        folder = tmp_path / name
        mirror, clock = Mirror(folder / "mirror", SIZE), Clock()
        config = IntakeConfig(**{"image_size": SIZE, "settle_seconds": 0, **changes})
        return HospitalFolder(
            folder,
            mirror,
            FolderIntake(folder, mirror, pseudonyms, config, clock),
            pseudonyms,
            clock,
        )

    return make


@pytest.fixture
def hospital(make_hospital: Callable[..., HospitalFolder]) -> HospitalFolder:
    return make_hospital()


@pytest.fixture
def made() -> Callable[..., Dataset]:
    def make(
        seed: int = 0, body_part: str | None = "LIVER", size: int = SIZE, **changes: object
    ) -> Dataset:
        rng = np.random.default_rng([5, seed])
        data = ct_dataset(
            rng.uniform(-200, 300, (size, size)), make_identity(rng), make_uid(rng), body_part
        )
        for keyword, value in changes.items():
            setattr(data, keyword, value)
        return data

    return make


@pytest.fixture
def file_of(made: Callable[..., Dataset]) -> Callable[..., bytes]:
    return lambda *args, **changes: dicom_bytes(made(*args, **changes))
