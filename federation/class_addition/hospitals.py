"""Hospitals whose images come from mirrors: what an engine needs to let their twins work. Knows no method and no round."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from federation.class_addition.images import HospitalPlan, Names, Plan
from incremental.device import CPU
from incremental.network import resize
from physical.batch import Batch
from physical.hospital import Arrival, Hospital
from physical.mirror import Mirror
from twin.config import TwinSetting
from twin.memory import ExemplarMemory
from twin.state import TwinState
from twin.twin import DigitalTwin

_IMAGES_AT_ONCE = 512


@dataclass(frozen=True)
class MirroredHospitals:
    """Hospitals, each with an archive of its own.

    Args:
        archives: Training images of each: what it knew first, then what was approved.
        num_known: How many of each archive it knew.
        setting: What all twins share.
        device: Where they look and train.
    """

    archives: Mapping[str, Batch]
    num_known: Mapping[str, int]
    setting: TwinSetting
    device: torch.device = CPU

    def twin(self, twin_id: str, state: TwinState | None) -> DigitalTwin:
        """Put one twin together; what was approved reaches it in round 0."""
        archive = self.archives[twin_id]
        approved = np.arange(self.num_known[twin_id], len(archive))
        arrivals = (Arrival(0, approved),) if len(approved) else ()
        return DigitalTwin(
            Hospital(twin_id, archive, arrivals), self.setting, state, device=self.device
        )

    def present(self, round_number: int) -> list[str]:
        """Return everybody."""
        return list(self.archives)

    def states(self, known_names: Sequence[str]) -> dict[str, TwinState]:
        """Return each twin in the midst of its life: the named images of the champion's classes are what it has learned last."""
        states = {}
        for twin_id, archive in self.archives.items():
            present = archive.class_names()
            names = tuple(name for name in known_names if name in present)
            memory = ExemplarMemory(self.setting.twin.memory_capacity)
            states[twin_id] = TwinState(
                memory, current=np.arange(self.num_known[twin_id]), current_names=names
            )
        return states


def open_hospitals(
    plan: Plan, vocabulary: Sequence[str], setting: TwinSetting
) -> MirroredHospitals:
    """Read the training images of a plan.

    Args:
        plan: Which.
        vocabulary: All class names of the run.
        setting: What all twins share.

    Raises:
        MirrorError: If an image is no longer there.
    """
    archives, num_known = {}, {}
    for hospital in plan.hospitals:
        known = read_images(hospital, hospital.known, vocabulary, setting.network.image_size)
        approved = read_images(hospital, hospital.approved, vocabulary, setting.network.image_size)
        both = (
            np.concatenate([known.images, approved.images]),
            np.concatenate([known.labels, approved.labels]),
        )
        archives[hospital.hospital_id] = Batch(*both, tuple(vocabulary))
        num_known[hospital.hospital_id] = len(known)
    return MirroredHospitals(archives, num_known, setting)


def read_images(
    hospital: HospitalPlan, wanted: Names, vocabulary: Sequence[str], side: int
) -> Batch:
    """Return images of a hospital, class by class, no larger than the network's input."""
    ids = [image_id for names in wanted.values() for image_id in names]
    labels = np.repeat(
        [list(vocabulary).index(name) for name in wanted], [len(names) for names in wanted.values()]
    ).astype(np.int64)
    mirror = Mirror.at(Path(hospital.mirror))
    try:
        size = min(mirror.image_size, side)
        parts = [np.empty((0, size, size), np.uint8)]
        for start in range(0, len(ids), _IMAGES_AT_ONCE):
            parts.append(shrink(mirror.pixels(ids[start : start + _IMAGES_AT_ONCE]), side))
    finally:
        mirror.close()
    return Batch(np.concatenate(parts)[..., None], labels, tuple(vocabulary))


def shrink(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return images no larger than a side length, as the network itself would shrink them, in 8 bit again.

    Done once instead of in each step; augmentation then moves images by the network's own pixels.

    Args:
        images: Shape [N, S, S].
        side: Of the network's input [px].
    """
    if images.shape[1] <= side:
        return images
    small = resize(torch.from_numpy(images)[:, None].to(torch.float32), side)
    return np.asarray(small[:, 0].round_().clamp_(0, 255).to(torch.uint8).numpy())
