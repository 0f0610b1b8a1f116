"""What a comparison of candidate and champion found, as plain numbers. Knows no model and no rule; needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as checked

_STRICT = ConfigDict(extra="forbid")


class ComparisonError(ValueError):
    """A comparison that cannot be made or read: what, got, allowed, what to do."""


@checked(frozen=True, config=_STRICT)
class ModelFinding:
    """One model on the held-out images.

    Args:
        digest: Of its weights.
        class_names: What it knows.
        accuracy: On all held-out images of the candidate's classes: a class that a model does not know it names wrongly.
        macro_f1: The same, mean over classes.
        calibration_error: Expected, in [0, 1], on the images of the classes that this model knows; none without any.
        num_images: Behind ``accuracy``.
    """

    digest: str
    class_names: tuple[str, ...]
    accuracy: float
    macro_f1: float
    calibration_error: float | None
    num_images: int


@checked(frozen=True, config=_STRICT)
class ClassFinding:
    """One class.

    Args:
        class_name: Which.
        num_images: Held-out images behind the numbers.
        is_new: The champion does not know it.
        candidate_accuracy: Share named rightly; none without images.
        champion_accuracy: The same; none where it does not know the class.
        loss_points: What the candidate forgot, in points (hundredths); negative: gained; none for a new class.
    """

    class_name: str
    num_images: int
    is_new: bool
    candidate_accuracy: float | None
    champion_accuracy: float | None
    loss_points: float | None


@checked(frozen=True, config=_STRICT)
class HospitalFinding:
    """One hospital, on the classes that the champion knows (all, where there is no champion)."""

    hospital: str
    num_images: int
    candidate_accuracy: float | None
    champion_accuracy: float | None
    loss_points: float | None


@checked(frozen=True, config=_STRICT)
class Change:
    """An image that the two models name differently.

    Args:
        hospital: Whose; only there it may be shown.
        image_id: In that hospital's mirror.
        truth: What it shows.
        before: What the champion says.
        after: What the candidate says.
        before_probability: How sure the champion is, in [0, 1].
        after_probability: How sure the candidate is.
        number: Row of its attention maps.
    """

    hospital: str
    image_id: str
    truth: str
    before: str
    after: str
    before_probability: float
    after_probability: float
    number: int


@checked(frozen=True, config=_STRICT)
class KnownAccuracy:
    """Accuracy of both on the images of the classes that the champion knows, and how many these are."""

    candidate: float | None
    champion: float | None
    num_images: int


@checked(frozen=True, config=_STRICT)
class Comparison:
    """What was found.

    Args:
        candidate: The new model.
        champion: The one that serves; none for a first model.
        classes: All classes of the candidate and of the champion.
        hospitals: Each hospital.
        known_accuracy: On what the champion knows.
        num_changed: Images that the two name differently.
        num_mended: Of these, wrong before and right now.
        num_broken: Of these, right before and wrong now.
        changed: Examples of them, those that broke first; at most as many as were asked for.
    """

    candidate: ModelFinding
    champion: ModelFinding | None
    classes: tuple[ClassFinding, ...]
    hospitals: tuple[HospitalFinding, ...]
    known_accuracy: KnownAccuracy
    num_changed: int
    num_mended: int
    num_broken: int
    changed: tuple[Change, ...]

    def as_plain(self) -> dict[str, Any]:
        """Return all of it as JSON takes it."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def read_comparison(path: Path) -> tuple[Comparison, Mapping[str, Any] | None]:
    """Return a comparison that was written, and the verdict beside it.

    Raises:
        ComparisonError: If there is none, or it is damaged.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        verdict = plain.pop("verdict", None)
        return TypeAdapter(Comparison).validate_python(plain), verdict
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ComparisonError(
            f"{path} holds no comparison: {error}; expected: what a class addition wrote; train again"
        ) from error
