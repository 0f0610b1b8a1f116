"""What the demo is made of: hospitals, organs, sizes, settings of its console. Starts nothing; all numbers of the demo are here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from federation.console.settings import ConsoleSettings
from physical.datasets.phantom_anatomy import CLASS_NAMES
from physical.datasets.phantom_dicom import BODY_PARTS

_LIGHT = {"epochs": 3, "batch_size": 16}

# Some twenty held-out images of a class: one of them is 5 points, so the usual rules would be red by chance.
_RULES = {
    "max_loss_per_old_class_points": 6.0,
    "max_loss_of_old_classes_points": 2.0,
    "fewest_images": 5,
}


class DemoError(ValueError):
    """A demo that cannot be made or served: what, got, allowed, what to do."""


@dataclass(frozen=True)
class DemoPlan:
    """The demo.

    Args:
        hospitals: Their ids.
        known: Organs that the first model learns.
        unknown: The organ that nobody names.
        finders: Hospitals in which it appears.
        patients: Of each hospital's history: one slice of each known organ.
        days: Over which that history came.
        first_rounds: Of the first model.
        rounds: Of a training after an approval.
        network: Of the first model, and so of all that follow.
        seconds: Between two deliveries of new images.
        unknown_from: Delivery with which the unknown organ begins.
        unknown_at_once: Its slices in one delivery, for each of its hospitals.
        unknown_most: Its slices in a hospital, after which only known organs come.
        seed: Of everything made.
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
            raise DemoError(
                f"unknown is {self.unknown!r}; allowed: an organ of {', '.join(sorted(set(CLASS_NAMES) - set(self.known)))}"
            )
        if not set(self.finders) <= set(self.hospitals):
            raise DemoError(
                f"finders are {', '.join(self.finders)}; allowed: {', '.join(self.hospitals)}"
            )
        if self.patients * len(self.known) < 20 or self.seconds <= 0:
            raise DemoError(
                f"patients is {self.patients} and seconds {self.seconds:g}; allowed: 20 images of each hospital or more, above 0 s"
            )

    @property
    def num_history(self) -> int:
        """Images of one hospital's history."""
        return self.patients * len(self.known)


def plain_settings(plan: DemoPlan) -> dict[str, Any]:
    """Return what the demo's ``console.yaml`` says."""
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


def first_addition(plan: DemoPlan) -> dict[str, Any]:
    """Return how the first model is trained."""
    return {"rounds": plan.first_rounds, "training": dict(_LIGHT), "network": dict(plan.network)}


def settings_of(plan: DemoPlan, folder: Path) -> ConsoleSettings:
    """Return the settings of a demo in a folder."""
    return TypeAdapter(ConsoleSettings).validate_python(
        {**plain_settings(plan), "folder": folder.absolute()}
    )
