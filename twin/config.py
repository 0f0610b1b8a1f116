"""Configuration that all twins share: memory, detection, network and local training."""

from dataclasses import dataclass, field

import pydantic.dataclasses
from pydantic import ConfigDict, Field

from incremental.detection import DetectionConfig
from incremental.network import NetworkConfig
from twin.local_training import TrainingConfig
from twin.privacy.update_release import UpdateReleaseConfig


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TwinConfig:
    """Exemplar memory and detection of new classes.

    Args:
        memory_capacity: Most exemplars of one twin (paper: 2000 for CIFAR-100, 1000 for organs).
        held_back_fraction: Share of arrivals that is never trained on: the calibrated rule compares
            arrivals with them, and the reported accuracy is measured on them.
        detection: Rule that decides whether new classes have arrived.
        watched: Further rules whose decisions are reported and not followed.
    """

    memory_capacity: int = 2000
    held_back_fraction: float = 0.0
    detection: DetectionConfig = Field(default_factory=DetectionConfig)
    watched: tuple[DetectionConfig, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.memory_capacity < 0:
            raise ValueError(
                f"memory_capacity is {self.memory_capacity}; allowed: 0 or more exemplars"
            )
        if not 0 <= self.held_back_fraction <= 0.5:
            raise ValueError(f"held_back_fraction is {self.held_back_fraction}; allowed: 0 to 0.5")
        if self.detection.rule == "calibrated" and not self.held_back_fraction:
            raise ValueError(
                "detection.rule is 'calibrated' and held_back_fraction 0: the rule compares "
                "arrivals with images held back; set held_back_fraction to 0.1, or rule to "
                "'entropy_jump'"
            )


@dataclass(frozen=True)
class TwinSetting:
    """Settings that all twins of a federation share.

    Args:
        twin: Memory and detection.
        network: Architecture of the model.
        training: Local training.
        rounds_per_task: Length of a task for the learning rate's schedule.
        outgoing: Compression of updates, and noise on them.
    """

    twin: TwinConfig
    network: NetworkConfig
    training: TrainingConfig
    rounds_per_task: int
    outgoing: UpdateReleaseConfig = field(default_factory=UpdateReleaseConfig)
