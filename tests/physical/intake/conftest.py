"""A hospital's folder with an intake, and CT files to put into its inbox."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
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

SIZE = 16


@dataclass
class Clock:
    """A clock that is moved by hand."""

    now: datetime = field(default_factory=lambda: datetime(2024, 2, 19, 8, 30, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class SimulatedHospitals:
    """One hospital's folder, its mirror and its intake."""

    folder: Path
    mirror: Mirror
    intake: FolderIntake
    pseudonyms: Pseudonyms
    clock: Clock

    def put(self, name: str, content: bytes) -> Path:
        path = self.intake.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def left(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.intake.inbox))
            for path in self.intake.inbox.rglob("*")
            if path.is_file()
        )


@pytest.fixture
def pseudonyms() -> Pseudonyms:
    return Pseudonyms(bytes(range(KEY_BYTES)))


@pytest.fixture
def ward_of(tmp_path: Path, pseudonyms: Pseudonyms) -> Callable[..., SimulatedHospitals]:
    def make(name: str = "hospitals", **changes: object) -> SimulatedHospitals:
        folder = tmp_path / name
        mirror, clock = Mirror(folder / "mirror", SIZE), Clock()
        changed: Any = {"image_size": SIZE, "settle_seconds": 0} | changes
        config = IntakeConfig(**changed)
        return SimulatedHospitals(
            folder,
            mirror,
            FolderIntake(folder, mirror, pseudonyms, config, clock),
            pseudonyms,
            clock,
        )

    return make


@pytest.fixture
def hospitals(ward_of: Callable[..., SimulatedHospitals]) -> SimulatedHospitals:
    return ward_of()


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
