"""A twin's view of its hospital: pixels as tensors, network outputs, labels as rows."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from incremental.device import CPU
from incremental.inference import features_of, logits_of
from incremental.network import IncrementalNetwork
from physical.hospital import Hospital
from physical.transforms import to_tensor
from twin.state import Positions


class HospitalView:
    """Images of a hospital's archive by their positions, as networks need them.

    Args:
        hospital: Owner of the archive.
        bfloat16: Run networks in bfloat16.
        device: Device of the pixels.
    """

    def __init__(self, hospital: Hospital, bfloat16: bool, device: torch.device = CPU) -> None:
        self.hospital = hospital
        self._bfloat16 = bfloat16
        self._device = device

    def pixels(self, positions: Positions) -> Tensor:
        """Return 8-bit images, shape [N, C, H, W], on the device."""
        return to_tensor(self.hospital.images(positions).images).to(self._device)

    def row_tensor(self, positions: Positions, class_names: Sequence[str]) -> Tensor:
        """Return ``rows`` as a tensor on the device."""
        return torch.from_numpy(self.rows(positions, class_names)).to(self._device)

    def logits(self, network: IncrementalNetwork, positions: Positions) -> NDArray[np.float32]:
        """Return a network's logits, shape [N, C]."""
        logits: NDArray[np.float32] = logits_of(
            network, self.pixels(positions), bfloat16=self._bfloat16
        ).numpy()
        return logits

    def features(self, network: IncrementalNetwork, positions: Positions) -> Tensor:
        """Return a network's pooled features, shape [N, D]."""
        return features_of(network, self.pixels(positions), bfloat16=self._bfloat16)

    def names(self, positions: Positions) -> tuple[str, ...]:
        """Return the class names of these images, each once, in the vocabulary's order."""
        return tuple(
            self.hospital.vocabulary[label] for label in np.unique(self.hospital.labels(positions))
        )

    def of_class(self, positions: Positions, name: str) -> Positions:
        """Return the positions of images of a class."""
        chosen: Positions = positions[
            self.hospital.labels(positions) == self.hospital.vocabulary.index(name)
        ]
        return chosen

    def known(self, positions: Positions, class_names: Sequence[str]) -> NDArray[np.bool_]:
        """Return which images are of one of these classes, shape [N]."""
        return self.rows(positions, class_names) >= 0

    def rows(self, positions: Positions, class_names: Sequence[str]) -> Positions:
        """Return each image's class as an index into the names, -1 if not among them, shape [N]."""
        row = {name: index for index, name in enumerate(class_names)}
        row_of_label = np.array([row.get(name, -1) for name in self.hospital.vocabulary], np.int64)
        rows: Positions = row_of_label[self.hospital.labels(positions)]
        return rows

    def prototype(self, network: IncrementalNetwork, positions: Positions) -> Tensor:
        """Return the 8-bit image whose feature is nearest to the mean of all, shape [C, H, W]."""
        features = torch.nn.functional.normalize(self.features(network, positions).double(), dim=1)
        return self.pixels(positions)[int((features @ features.mean(0)).argmax())]
