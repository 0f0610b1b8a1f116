"""Hospitals of a class addition, with twins whose images come from the hospitals' mirrors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from federation.class_addition.image_plan import HospitalPlan, ImageIds, ImagePlan
from incremental.device import CPU
from incremental.network import resize
from physical.batch import Batch
from physical.hospital import Arrival, Hospital
from physical.mirror import Mirror
from twin.config import TwinSetting
from twin.memory import ExemplarMemory
from twin.state import TwinState
from twin.twin import DigitalTwin

_BATCH_SIZE = 512


@dataclass(frozen=True)
class MirroredHospitals:
    """The hospitals that an engine simulates.

    Args:
        archives: Hospital -> its training images: those of known classes, then the approved ones.
        num_known: Hospital -> number of images of known classes.
        setting: Setting that all twins share.
        device: Where the twins compute.
    """

    archives: Mapping[str, Batch]
    num_known: Mapping[str, int]
    setting: TwinSetting
    device: torch.device = CPU

    def twin(self, twin_id: str, state: TwinState | None) -> DigitalTwin:
        """Build a twin; the approved images arrive in round 0."""
        archive = self.archives[twin_id]
        approved = np.arange(self.num_known[twin_id], len(archive))
        arrivals = (Arrival(0, approved),) if len(approved) else ()
        hospital = Hospital(twin_id, archive, arrivals)
        return DigitalTwin(hospital, self.setting, state, device=self.device)

    def present(self, round_number: int) -> list[str]:
        """Return all hospitals."""
        return list(self.archives)

    def states(self, known_names: Sequence[str]) -> dict[str, TwinState]:
        """Return the twins' states after they have learned the champion's classes.

        A twin's current images are its images of these classes.
        """
        states = {}
        for twin_id, archive in self.archives.items():
            present = archive.class_names()
            states[twin_id] = TwinState(
                ExemplarMemory(self.setting.twin.memory_capacity),
                current=np.arange(self.num_known[twin_id]),
                current_names=tuple(name for name in known_names if name in present),
            )
        return states


def open_hospitals(
    plan: ImagePlan, vocabulary: Sequence[str], setting: TwinSetting
) -> MirroredHospitals:
    """Read the training images of a plan.

    Args:
        plan: The images.
        vocabulary: All class names of the run.
        setting: Setting that all twins share.

    Raises:
        MirrorError: If an image is no longer in its mirror.
    """
    archives, num_known = {}, {}
    for hospital in plan.hospitals:
        known, approved = (
            read_images(hospital, group, vocabulary, setting.network.image_size)
            for group in (hospital.known, hospital.approved)
        )
        archives[hospital.hospital_id] = Batch(
            np.concatenate([known.images, approved.images]),
            np.concatenate([known.labels, approved.labels]),
            tuple(vocabulary),
        )
        num_known[hospital.hospital_id] = len(known)
    return MirroredHospitals(archives, num_known, setting)


def read_images(
    hospital: HospitalPlan, wanted: ImageIds, vocabulary: Sequence[str], side: int
) -> Batch:
    """Return images of a hospital, class by class, shrunk to the side of the network's input."""
    names = list(vocabulary)
    ids = [image_id for group in wanted.values() for image_id in group]
    labels = [names.index(name) for name, group in wanted.items() for _ in group]
    mirror = Mirror.open_existing(Path(hospital.mirror))
    try:
        size = min(mirror.image_size, side)
        parts = [np.empty((0, size, size), np.uint8)]
        for start in range(0, len(ids), _BATCH_SIZE):
            parts.append(shrink(mirror.pixels(ids[start : start + _BATCH_SIZE]), side))
    finally:
        mirror.close()
    return Batch(np.concatenate(parts)[..., None], np.array(labels, np.int64), tuple(vocabulary))


def shrink(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Shrink images as the network would, and round them to 8 bit.

    Images are shrunk once instead of in each step, and augmentation moves them by pixels of the
    network's input.

    Args:
        images: Grey values, shape [N, S, S].
        side: Side of the network's input [px]; smaller images are returned as they are.
    """
    if images.shape[1] <= side:
        return images
    small = resize(torch.from_numpy(images)[:, None].to(torch.float32), side)
    return np.asarray(small[:, 0].round_().clamp_(0, 255).to(torch.uint8).numpy())
