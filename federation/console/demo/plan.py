"""The plan of the demo: hospitals, organs, sizes, and the settings of its console."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from federation.console.settings import ConsoleSettings
from physical.datasets.phantom_anatomy import CLASS_NAMES
from physical.datasets.phantom_dicom import BODY_PARTS

_LIGHT = {"epochs": 3, "batch_size": 16}

# A class has about twenty held-out images, each worth 5 points: too few for the usual rules.
_RULES = {
    "max_loss_per_old_class_points": 6.0,
    "max_loss_of_old_classes_points": 2.0,
    "fewest_images": 5,
}


class DemoError(ValueError):
    """The demo cannot be made or served."""


@dataclass(frozen=True)
class DemoPlan:
    """The plan of the demo.

    Args:
        hospitals: Ids of the hospitals.
        known: Organs that the first model learns.
        unknown: The organ that nobody has named.
        finders: Hospitals in which the unknown organ appears.
        patients: Patients in each hospital's history, each with one slice per known organ.
        days: Days over which the history arrived.
        first_rounds: Rounds of the first model's training.
        rounds: Rounds of each later training.
        network: Network of all models.
        seconds: Pause between two deliveries of new images [s].
        unknown_from: Number of the first delivery with the unknown organ.
        unknown_at_once: Slices of the unknown organ in one delivery to a hospital.
        unknown_most: Slices of the unknown organ after which a hospital gets no more.
        seed: Seed of all generated data.
    """

    hospitals: tuple[str, ...] = ("north", "south", "west")
    known: tuple[str, ...] = (
        "bladder",
        "femur-left",
        "heart",
        "kidney-left",
        "liver",
        "lung-right",
        "spleen",
    )
    unknown: str = "pancreas"
    finders: tuple[str, ...] = ("north", "south")
    patients: int = 28
    days: int = 14
    first_rounds: int = 6
    rounds: int = 6
    network: dict[str, Any] = field(
        default_factory=lambda: {"backbone": "resnet10", "width": 16, "image_size": 28}
    )
    seconds: float = 4.0
    unknown_from: int = 4
    unknown_at_once: int = 6
    unknown_most: int = 90
    seed: int = 1

    def __post_init__(self) -> None:
        """Check what must fit together."""
        if self.unknown in self.known or not {self.unknown, *self.known} <= set(CLASS_NAMES):
            allowed = ", ".join(sorted(set(CLASS_NAMES) - set(self.known)))
            raise DemoError(f"unknown is {self.unknown!r}; allowed: an organ of {allowed}")
        if not set(self.finders) <= set(self.hospitals):
            raise DemoError(
                f"finders are {', '.join(self.finders)}; allowed: {', '.join(self.hospitals)}"
            )
        if self.patients * len(self.known) < 20 or self.seconds <= 0:
            raise DemoError(
                f"patients is {self.patients} and seconds {self.seconds:g}; "
                "allowed: 20 images of each hospital or more, above 0 s"
            )


def plain_settings(plan: DemoPlan) -> dict[str, Any]:
    """Return the content of the demo's ``console.yaml``."""
    return {
        "federation_name": "Demo federation",
        "hospitals": list(plan.hospitals),
        "model_name": "fedka-console-demo",
        "secure_cookies": False,  # plain http, on this very machine
        "intake": {"settle_seconds": 0.0, "class_names": dict(BODY_PARTS)},
        "triage": {"minimum_history": 20},
        "release_rules": dict(_RULES),
        "addition": {"rounds": plan.rounds, "training": dict(_LIGHT)},
    }


def first_model_training(plan: DemoPlan) -> dict[str, Any]:
    """Return the configuration of the first model's training."""
    return {"rounds": plan.first_rounds, "training": dict(_LIGHT), "network": dict(plan.network)}


def demo_settings(plan: DemoPlan, folder: Path) -> ConsoleSettings:
    """Return the settings of a demo in a folder."""
    return TypeAdapter(ConsoleSettings).validate_python(
        {**plain_settings(plan), "folder": folder.absolute()}
    )
