"""Result of the comparison of a candidate with the champion, as plain numbers.

Needs no torch, so that the web process can read it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as pydantic_dataclass

_STRICT = ConfigDict(extra="forbid")


class ComparisonError(ValueError):
    """A comparison that cannot be made or read: what, got, allowed, what to do."""


@pydantic_dataclass(frozen=True, config=_STRICT)
class ModelFinding:
    """Measurements of one model on the held-out images.

    Args:
        digest: Digest of its weights.
        class_names: Classes of its head.
        accuracy: Accuracy on all held-out images, in [0, 1]. An image of a class that the model
            does not know counts as wrong.
        macro_f1: Mean F1 over the classes of these images, in [0, 1].
        calibration_error: Expected calibration error, in [0, 1], on images of the classes that the
            model knows; none without such images.
        num_images: Number of held-out images.
    """

    digest: str
    class_names: tuple[str, ...]
    accuracy: float
    macro_f1: float
    calibration_error: float | None
    num_images: int


@pydantic_dataclass(frozen=True, config=_STRICT)
class ClassFinding:
    """Measurements of both models on one class.

    Args:
        class_name: Name of the class.
        num_images: Held-out images of the class.
        is_new: The champion does not know the class.
        candidate_accuracy: Accuracy of the candidate, in [0, 1]; none without images.
        champion_accuracy: Accuracy of the champion; none where it does not know the class.
        loss_points: Accuracy that the candidate lost [percentage points]; negative: gained; none
            for a new class.
    """

    class_name: str
    num_images: int
    is_new: bool
    candidate_accuracy: float | None
    champion_accuracy: float | None
    loss_points: float | None


@pydantic_dataclass(frozen=True, config=_STRICT)
class HospitalFinding:
    """Measurements of both models on a hospital's images of classes that the champion knows.

    Without a champion all classes count.
    """

    hospital: str
    num_images: int
    candidate_accuracy: float | None
    champion_accuracy: float | None
    loss_points: float | None


@pydantic_dataclass(frozen=True, config=_STRICT)
class Change:
    """An image for which the two models predict different classes.

    Args:
        hospital: Hospital of the image; the image may be shown only there.
        image_id: Id in that hospital's mirror.
        truth: Class of the image.
        before: Class that the champion predicts.
        after: Class that the candidate predicts.
        before_probability: Probability that the champion gives its class, in [0, 1].
        after_probability: Probability that the candidate gives its class, in [0, 1].
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


@pydantic_dataclass(frozen=True, config=_STRICT)
class KnownAccuracy:
    """Accuracy of both models on all images of the classes that the champion knows."""

    candidate: float | None
    champion: float | None
    num_images: int


@pydantic_dataclass(frozen=True, config=_STRICT)
class Comparison:
    """Result of a comparison.

    Args:
        candidate: Measurements of the new model.
        champion: Measurements of the model that serves; none for a first model.
        classes: Measurements per class of the candidate or the champion.
        hospitals: Measurements per hospital.
        known_accuracy: Accuracy on the classes that the champion knows.
        num_changed: Images for which the two models predict different classes.
        num_mended: Of these, those that only the candidate predicts correctly.
        num_broken: Of these, those that only the champion predicts correctly.
        changed: Examples of changed images, broken ones first.
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
        """Return the comparison as plain data for JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def read_comparison(path: Path) -> tuple[Comparison, Mapping[str, Any] | None]:
    """Return the comparison and the verdict that a file holds.

    Raises:
        ComparisonError: If the file is missing or damaged.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        verdict = plain.pop("verdict", None)
        return TypeAdapter(Comparison).validate_python(plain), verdict
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ComparisonError(
            f"{path} holds no comparison: {error}; "
            "expected: the file that a class addition wrote; train again"
        ) from error
