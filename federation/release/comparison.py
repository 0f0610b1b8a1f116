"""Compares a candidate with the champion on images that neither was trained on. Knows no rule, no registry and no round.

Both look at the same images. What hangs on a class is measured on the images of that class; forgetting is the accuracy that a class loses.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from federation.experiment import metrics
from federation.release.findings import (
    Change,
    ClassFinding,
    Comparison,
    ComparisonError,
    HospitalFinding,
    KnownAccuracy,
    ModelFinding,
)
from incremental.attention import attention
from incremental.model_file import load_model
from incremental.network import IncrementalNetwork, freeze
from incremental.prediction import Prediction, as_tensor, predict
from physical.transforms import to_unit

MAP_SIDE = 32
"""Side of a stored attention map [px]: maps have a few positions only, so more would add nothing."""
_IMAGES_AT_ONCE = 512


@dataclass(frozen=True)
class HeldOut:
    """Images that nobody trained on.

    Args:
        images: 8-bit grey, shape [N, S, S].
        names: What each shows.
        hospitals: Whose each is.
        image_ids: In the hospital's mirror.
    """

    images: NDArray[np.uint8]
    names: tuple[str, ...]
    hospitals: tuple[str, ...]
    image_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the lengths."""
        if len({len(self.images), len(self.names), len(self.hospitals), len(self.image_ids)}) != 1:
            raise ComparisonError(
                f"{len(self.images)} images, {len(self.names)} names, {len(self.hospitals)} hospitals, {len(self.image_ids)} ids; "
                "allowed: one of each per image"
            )


@dataclass(frozen=True)
class Answers:
    """What a model says about the held-out images.

    Args:
        said: Class name of each image, shape [N].
        probability: Of that class, shape [N].
    """

    said: NDArray[np.str_]
    probability: NDArray[np.float64]


@dataclass(frozen=True)
class Maps:
    """Attention of both models in the examples: 0 to 255, all 0 without evidence, each [n, s, s]."""

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]

    def as_bytes(self) -> bytes:
        """Return both as the content of an npz file without pickle."""
        content = io.BytesIO()
        np.savez_compressed(content, before=self.before, after=self.after)
        return content.getvalue()


def compare(
    candidate: Path, champion: Path | None, held_out: HeldOut, most_examples: int = 60
) -> tuple[Comparison, Maps]:
    """Compare two models.

    Args:
        candidate: Model folder.
        champion: Model folder; none: the candidate is the first.
        held_out: Images of the candidate's classes.
        most_examples: Most images that are listed with their attention.

    Returns:
        What was found, and where both look in the listed images: each at the class that it names.

    Raises:
        ComparisonError: If there are no images.
        ModelError: If a model is damaged.
    """
    if not held_out.names:
        raise ComparisonError(
            "there are 0 held-out images; needed: one at least; nothing can be said of the candidate"
        )
    new, new_manifest = load_model(candidate)
    answers = _answers(new, new_manifest["class_names"], held_out.images)
    if champion is None:
        return _report(
            held_out, (new_manifest["digest"], new_manifest["class_names"], answers), None, ()
        ), _no_maps()
    old, old_manifest = load_model(champion)
    before = _answers(old, old_manifest["class_names"], held_out.images)
    examples = _examples(held_out, before, answers, most_examples)
    found = _report(
        held_out,
        (new_manifest["digest"], new_manifest["class_names"], answers),
        (old_manifest["digest"], old_manifest["class_names"], before),
        examples,
    )
    maps = Maps(
        _maps(old, old_manifest["class_names"], held_out.images, before.said, examples),
        _maps(new, new_manifest["class_names"], held_out.images, answers.said, examples),
    )
    return found, maps


def _answers(
    network: IncrementalNetwork, class_names: Sequence[str], images: NDArray[np.uint8]
) -> Answers:
    rows, probabilities = [], []
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        seen: Prediction = predict(network, images[start : start + _IMAGES_AT_ONCE])
        rows.append(seen.rows)
        probabilities.append(seen.probabilities.max(1))
    return Answers(
        np.array(class_names)[np.concatenate(rows)],
        np.concatenate(probabilities).astype(np.float64),
    )


_Side = tuple[str, Sequence[str], Answers]  # digest, class names, answers


def _report(
    held_out: HeldOut, candidate: _Side, champion: _Side | None, examples: Sequence[int]
) -> Comparison:
    truth = np.array(held_out.names)
    names = list(
        dict.fromkeys((*(champion[1] if champion else ()), *candidate[1], *held_out.names))
    )
    old_names = list(champion[1]) if champion else names
    known = np.isin(truth, old_names)
    right = candidate[2].said == truth
    before = champion[2].said == truth if champion else None
    changed = (
        np.zeros(len(truth), bool) if champion is None else candidate[2].said != champion[2].said
    )
    return Comparison(
        candidate=_model(candidate, truth, names),
        champion=_model(champion, truth, names) if champion else None,
        classes=tuple(
            _class(
                name, truth == name, right, before, champion is not None and name not in old_names
            )
            for name in names
        ),
        hospitals=tuple(
            _hospital(each, held_out, known, right, before)
            for each in dict.fromkeys(held_out.hospitals)
        ),
        known_accuracy=KnownAccuracy(
            _share(right, known),
            None if before is None else _share(before, known),
            int(known.sum()),
        ),
        num_changed=int(changed.sum()),
        num_mended=0 if before is None else int((right & ~before).sum()),
        num_broken=0 if before is None else int((before & ~right).sum()),
        changed=tuple(
            _change(number, place, held_out, champion, candidate)
            for number, place in enumerate(examples)
        ),
    )


def _model(side: _Side, truth: NDArray[np.str_], names: Sequence[str]) -> ModelFinding:
    digest, class_names, answers = side
    place = {
        name: index for index, name in enumerate(name for name in names if name in truth)
    }  # a class without images has no F1
    rows, said = (
        np.array([place.get(str(name), -1) for name in each], np.int64)
        for each in (truth, answers.said)
    )
    confusion = metrics.confusion_matrix(rows, said, len(place))
    own = np.isin(truth, list(class_names))
    error = metrics.calibration_error(answers.probability[own], (answers.said == truth)[own])
    return ModelFinding(
        digest,
        tuple(class_names),
        metrics.accuracy(confusion),
        metrics.macro_f1(confusion),
        error,
        len(truth),
    )


def _class(
    name: str,
    own: NDArray[np.bool_],
    right: NDArray[np.bool_],
    before: NDArray[np.bool_] | None,
    is_new: bool,
) -> ClassFinding:
    after = _share(right, own)
    old = None if before is None or is_new else _share(before, own)
    return ClassFinding(name, int(own.sum()), is_new, after, old, _loss(old, after))


def _hospital(
    hospital: str,
    held_out: HeldOut,
    known: NDArray[np.bool_],
    right: NDArray[np.bool_],
    before: NDArray[np.bool_] | None,
) -> HospitalFinding:
    own = known & (np.array(held_out.hospitals) == hospital)
    after, old = _share(right, own), None if before is None else _share(before, own)
    return HospitalFinding(hospital, int(own.sum()), after, old, _loss(old, after))


def _share(right: NDArray[np.bool_], own: NDArray[np.bool_]) -> float | None:
    return float(right[own].mean()) if own.any() else None


def _loss(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else round((before - after) * 100, 6)


def _examples(held_out: HeldOut, before: Answers, after: Answers, most: int) -> list[int]:
    """Return images whose answer changed: those that broke, then those that are wrong in another way, then those that were mended."""
    truth = np.array(held_out.names)
    places = np.flatnonzero(before.said != after.said)
    kind = np.where(before.said == truth, 0, np.where(after.said == truth, 2, 1))
    order = sorted(
        places.tolist(), key=lambda place: (kind[place], -after.probability[place], place)
    )
    if len(order) <= most:
        return order
    worst = [place for place in order if kind[place] < 2]
    mended = [place for place in order if kind[place] == 2]
    kept = min(
        len(mended), max(most // 3, most - len(worst))
    )  # a third of the room shows what became better
    return [*worst[: most - kept], *mended[:kept]]


def _change(
    number: int, place: int, held_out: HeldOut, champion: _Side | None, candidate: _Side
) -> Change:
    assert champion is not None
    old, new = champion[2], candidate[2]
    said = (
        held_out.hospitals[place],
        held_out.image_ids[place],
        held_out.names[place],
        str(old.said[place]),
        str(new.said[place]),
    )
    return Change(*said, float(old.probability[place]), float(new.probability[place]), number)


def _maps(
    network: IncrementalNetwork,
    class_names: Sequence[str],
    images: NDArray[np.uint8],
    said: NDArray[np.str_],
    examples: Sequence[int],
) -> NDArray[np.uint8]:
    """Return the Grad-CAM of the class that a model names in each example, each scaled to its own largest value."""
    if not examples:
        return np.zeros((0, MAP_SIDE, MAP_SIDE), np.uint8)
    network = freeze(network)
    pixels = to_unit(as_tensor(images[list(examples)], network.config.channels))
    rows = torch.tensor([list(class_names).index(str(said[place])) for place in examples])
    maps = attention(network, network(pixels), rows)
    maps = torch.nn.functional.interpolate(
        maps[:, None], (MAP_SIDE, MAP_SIDE), mode="bilinear", align_corners=False
    )[:, 0]
    largest = maps.amax((1, 2), keepdim=True)
    return np.asarray((maps / largest.clamp_min(1e-12) * 255).round().to(torch.uint8).numpy())


def _no_maps() -> Maps:
    nothing = np.zeros((0, MAP_SIDE, MAP_SIDE), np.uint8)
    return Maps(nothing, nothing)
