"""Simulated hospitals of a run: one archive of images, and who gets which when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch

from incremental.device import CPU
from physical.batch import Batch
from physical.hospital import Arrival, Hospital
from twin.config import TwinSetting
from twin.state import TwinState
from twin.twin import DigitalTwin


@runtime_checkable
class Hospitals(Protocol):
    """The hospitals of an engine: simulated ones, or hospitals with images of their own."""

    @property
    def setting(self) -> TwinSetting:
        """What all twins share."""
        ...

    @property
    def device(self) -> torch.device:
        """Where they look and train."""
        ...

    def twin(self, twin_id: str, state: TwinState | None) -> DigitalTwin:
        """Put one twin together."""
        ...

    def present(self, round_number: int) -> Sequence[str]:
        """Return who takes part in a round."""
        ...


@dataclass(frozen=True)
class SimulatedHospitals:
    """All hospitals of a simulation: one archive of images, and who gets which of them when.

    Args:
        archive: Training images; hospitals refer to it and never copy.
        arrivals: Of each hospital; asked for when its twin is put together.
        joins: First round of each hospital, in the order of the twins.
        setting: What all twins share.
        device: Where they look and train.
    """

    archive: Batch
    arrivals: Mapping[str, Sequence[Arrival]]
    joins: Mapping[str, int]
    setting: TwinSetting
    device: torch.device = CPU

    def twin(self, twin_id: str, state: TwinState | None) -> DigitalTwin:
        """Put one twin together."""
        hospital = Hospital(twin_id, self.archive, self.arrivals[twin_id], self.joins[twin_id])
        return DigitalTwin(hospital, self.setting, state, device=self.device)

    def present(self, round_number: int) -> Sequence[str]:
        """Return who takes part in a round; costs nothing that grows with the hospitals."""
        return next((pool for start, pool in reversed(self._pools) if start <= round_number), ())

    @cached_property
    def _pools(self) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """Who takes part from each round on in which somebody joins."""
        starts = sorted(set(self.joins.values()))
        return tuple(
            (start, tuple(twin_id for twin_id, joins in self.joins.items() if joins <= start))
            for start in starts
        )
