"""Comparison of a candidate with the champion on the same held-out images.

Forgetting is the accuracy that a class loses on its held-out images.
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
from incremental.prediction import as_tensor, predict
from physical.transforms import to_unit

MAP_SIDE = 32
"""Side of a stored attention map [px]; the network's own maps are smaller still."""
_BATCH_SIZE = 512
_Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class HeldOut:
    """Images that no model was trained on.

    Args:
        images: 8-bit grey values, shape [N, S, S].
        truth: Class name of each image.
        hospitals: Hospital of each image.
        image_ids: Id of each image in its hospital's mirror.
    """

    images: NDArray[np.uint8]
    truth: tuple[str, ...]
    hospitals: tuple[str, ...]
    image_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the lengths."""
        if len({len(self.images), len(self.truth), len(self.hospitals), len(self.image_ids)}) != 1:
            raise ComparisonError(
                f"{len(self.images)} images, {len(self.truth)} names, {len(self.hospitals)} "
                f"hospitals, {len(self.image_ids)} ids; allowed: one of each per image"
            )


@dataclass(frozen=True)
class AttentionMaps:
    """Attention of both models in the examples.

    Args:
        before: Of the champion, 0 to 255, all 0 without evidence, shape [n, s, s].
        after: Of the candidate, likewise.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]

    def as_bytes(self) -> bytes:
        """Return both arrays as the content of an npz file without pickle."""
        content = io.BytesIO()
        np.savez_compressed(content, before=self.before, after=self.after)
        return content.getvalue()


@dataclass(frozen=True)
class _Answers:
    """A model and its predictions for the held-out images.

    Args:
        network: The model.
        digest: Digest of its weights.
        class_names: One per row of its head.
        predicted: Predicted class name of each image, shape [N].
        probability: Probability of that class, shape [N].
        is_right: Whether the prediction is correct, shape [N].
    """

    network: IncrementalNetwork
    digest: str
    class_names: Sequence[str]
    predicted: NDArray[np.str_]
    probability: NDArray[np.float64]
    is_right: _Mask


def compare(
    candidate: Path, champion: Path | None, held_out: HeldOut, most_examples: int = 60
) -> tuple[Comparison, AttentionMaps]:
    """Compare a candidate with the champion.

    Args:
        candidate: Model folder.
        champion: Model folder; none for a first model.
        held_out: Images of the candidate's classes.
        most_examples: Most changed images that are listed with their attention.

    Returns:
        The result, and the attention of each model to the class that it predicts, per example.

    Raises:
        ComparisonError: If there are no images.
        ModelError: If a model is damaged.
    """
    if not held_out.truth:
        raise ComparisonError(
            "there are 0 held-out images; needed: at least one; the candidate cannot be judged"
        )
    new = _answers(candidate, held_out)
    old = None if champion is None else _answers(champion, held_out)
    examples = [] if old is None else _choose_examples(held_out, old, new, most_examples)
    maps = AttentionMaps(
        _maps(old, held_out.images, examples), _maps(new, held_out.images, examples)
    )
    return _comparison(held_out, new, old, examples), maps


def _answers(folder: Path, held_out: HeldOut) -> _Answers:
    network, manifest = load_model(folder)
    starts = range(0, len(held_out.images), _BATCH_SIZE)
    parts = [predict(network, held_out.images[each : each + _BATCH_SIZE]) for each in starts]
    predicted = np.array(manifest["class_names"])[np.concatenate([each.rows for each in parts])]
    probability = np.concatenate([each.probabilities.max(1) for each in parts])
    return _Answers(
        network,
        manifest["digest"],
        manifest["class_names"],
        predicted,
        probability.astype(np.float64),
        predicted == np.array(held_out.truth),
    )


def _comparison(
    held_out: HeldOut, new: _Answers, old: _Answers | None, examples: Sequence[int]
) -> Comparison:
    truth = np.array(held_out.truth)
    old_names = () if old is None else old.class_names
    names = list(dict.fromkeys((*old_names, *new.class_names, *held_out.truth)))
    known = np.isin(truth, list(old_names)) if old else np.ones(len(truth), bool)
    changes = [
        _change(number, index, held_out, old, new) for number, index in enumerate(examples) if old
    ]
    return Comparison(
        candidate=_model(new, truth, names),
        champion=_model(old, truth, names) if old else None,
        classes=tuple(
            _class(name, truth == name, new, old, old is not None and name not in old_names)
            for name in names
        ),
        hospitals=tuple(
            _hospital(each, known & (np.array(held_out.hospitals) == each), new, old)
            for each in dict.fromkeys(held_out.hospitals)
        ),
        known_accuracy=KnownAccuracy(
            _accuracy(new, known), _accuracy(old, known) if old else None, int(known.sum())
        ),
        num_changed=int((new.predicted != old.predicted).sum()) if old else 0,
        num_mended=int((new.is_right & ~old.is_right).sum()) if old else 0,
        num_broken=int((old.is_right & ~new.is_right).sum()) if old else 0,
        changed=tuple(changes),
    )


def _model(answers: _Answers, truth: NDArray[np.str_], names: Sequence[str]) -> ModelFinding:
    # A class without images has no F1, so it gets no row.
    rows_of = {name: row for row, name in enumerate(name for name in names if name in truth)}
    true_rows, predicted_rows = (
        np.array([rows_of.get(str(name), -1) for name in each], np.int64)
        for each in (truth, answers.predicted)
    )
    confusion = metrics.confusion_matrix(true_rows, predicted_rows, len(rows_of))
    known = np.isin(truth, list(answers.class_names))
    return ModelFinding(
        answers.digest,
        tuple(answers.class_names),
        metrics.accuracy(confusion),
        metrics.macro_f1(confusion),
        metrics.calibration_error(answers.probability[known], answers.is_right[known]),
        len(truth),
    )


def _class(
    name: str, own: _Mask, new: _Answers, old: _Answers | None, is_new: bool
) -> ClassFinding:
    after = _accuracy(new, own)
    before = None if old is None or is_new else _accuracy(old, own)
    return ClassFinding(name, int(own.sum()), is_new, after, before, _loss(before, after))


def _hospital(name: str, own: _Mask, new: _Answers, old: _Answers | None) -> HospitalFinding:
    after, before = _accuracy(new, own), None if old is None else _accuracy(old, own)
    return HospitalFinding(name, int(own.sum()), after, before, _loss(before, after))


def _accuracy(answers: _Answers, own: _Mask) -> float | None:
    return float(answers.is_right[own].mean()) if own.any() else None


def _loss(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else round((before - after) * 100, 6)


def _choose_examples(held_out: HeldOut, old: _Answers, new: _Answers, most: int) -> list[int]:
    """Return indices of changed images.

    Images that only the champion predicts correctly come first, then those that neither does, then
    those that only the candidate does; within each group the most confident candidate first.
    """
    kind = np.where(old.is_right, 0, np.where(new.is_right, 2, 1))
    order = sorted(
        np.flatnonzero(old.predicted != new.predicted).tolist(),
        key=lambda index: (kind[index], -new.probability[index], index),
    )
    if len(order) <= most:
        return order
    worse = [index for index in order if kind[index] < 2]
    mended = [index for index in order if kind[index] == 2]
    # A third of the examples shows improvements, where there are as many.
    num_mended = min(len(mended), max(most // 3, most - len(worse)))
    return [*worse[: most - num_mended], *mended[:num_mended]]


def _change(number: int, index: int, held_out: HeldOut, old: _Answers, new: _Answers) -> Change:
    return Change(
        hospital=held_out.hospitals[index],
        image_id=held_out.image_ids[index],
        truth=held_out.truth[index],
        before=str(old.predicted[index]),
        after=str(new.predicted[index]),
        before_probability=float(old.probability[index]),
        after_probability=float(new.probability[index]),
        number=number,
    )


def _maps(
    answers: _Answers | None, images: NDArray[np.uint8], examples: Sequence[int]
) -> NDArray[np.uint8]:
    """Return the Grad-CAM of the predicted class in each example, scaled to its own maximum."""
    if answers is None or not examples:
        return np.zeros((0, MAP_SIDE, MAP_SIDE), np.uint8)
    network = freeze(answers.network)
    pixels = to_unit(as_tensor(images[list(examples)], network.config.channels))
    names = list(answers.class_names)
    rows = torch.tensor([names.index(str(answers.predicted[index])) for index in examples])
    maps = attention(network, network(pixels), rows)[:, None]
    size = (MAP_SIDE, MAP_SIDE)
    maps = torch.nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False)[:, 0]
    largest = maps.amax((1, 2), keepdim=True)
    return np.asarray((maps / largest.clamp_min(1e-12) * 255).round().to(torch.uint8).numpy())
