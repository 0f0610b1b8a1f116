"""Configuration that all twins share: memory, detection, network and local optimiser."""

from dataclasses import dataclass, field

import pydantic.dataclasses
from pydantic import ConfigDict, Field

from incremental.detection import DetectionConfig
from incremental.network import NetworkConfig
from twin.local_training import TrainingConfig
from twin.privacy.update_release import OutgoingConfig


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TwinConfig:
    """What every twin of a federation has in common.

    Args:
        memory_capacity: Most exemplars (paper: 2000 for CIFAR-100, 1000 for the organs, each per
            twin).
        held_back_fraction: Share of arrivals that is never trained on: the calibrated detector's
            reference and the reported accuracy's test.
        detection: When new classes count as noticed.
        watched: Other rules that look at the same evidence; what they would have decided is
            reported and not followed.
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
                "arrivals with images held back; "
                "set held_back_fraction to 0.1, or rule to 'entropy_jump'"
            )


@dataclass(frozen=True)
class TwinSetting:
    """All that twins of one federation share.

    Args:
        twin: Memory and detection.
        network: What weights are put into.
        training: The local optimiser.
        rounds_per_task: Rounds after which a task counts as over, for the learning rate.
        outgoing: What is done to an update before it leaves.
    """

    twin: TwinConfig
    network: NetworkConfig
    training: TrainingConfig
    rounds_per_task: int
    outgoing: OutgoingConfig = field(default_factory=OutgoingConfig)
