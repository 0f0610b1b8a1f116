"""Metrics from confusion matrices and detections.

Glossary: the *accuracy matrix* has a row for each task t that ended and a column for each task i <=
t: accuracy on the test images of task i's classes, among all classes seen so far, after task t.
*Average accuracy*: mean over t of the accuracy on all classes seen so far (how the FedKA tables are
made). *Last accuracy*: the same after the last task. *Macro-F1*: mean of the F1 of each seen class.
*Forgetting*: equation 16 of FedIMD.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# [C, C + 1]: rows true, columns predicted; the last column is "a class of no test image", or none.
Confusion = NDArray[np.int64]


def confusion_matrix(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> Confusion:
    """Count (true, predicted) pairs.

    Args:
        truth: In [0, classes).
        predicted: Any; what lies outside [0, classes) is counted in an extra last column: wrong,
            but of no seen class.
        classes: Classes seen so far, C.

    Returns:
        Shape [C, C + 1].
    """
    column = np.where((predicted >= 0) & (predicted < classes), predicted, classes)
    return np.bincount(truth * (classes + 1) + column, minlength=classes * (classes + 1)).reshape(
        classes, classes + 1
    )


def accuracy(confusion: Confusion) -> float:
    """Return the share of images named rightly."""
    return float(np.trace(confusion) / max(confusion.sum(), 1))


def accuracy_per_class(confusion: Confusion) -> NDArray[np.float64]:
    """Return the share of each class's images named rightly (recall), shape [C]."""
    return np.asarray(np.diagonal(confusion) / np.maximum(confusion.sum(1), 1))


def macro_f1(confusion: Confusion) -> float:
    """Return the mean of 2 TP / (2 TP + FP + FN) over the classes that occur.

    A class without images that is never predicted does not count: it is no mistake.
    """
    right = np.diagonal(confusion).astype(np.float64)
    total = confusion.sum(1) + confusion[:, :-1].sum(0)
    occurs = total > 0
    return float((2 * right[occurs] / total[occurs]).mean()) if occurs.any() else 0.0


def calibration_error(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 15
) -> float | None:
    """Return the expected calibration error: mean |accuracy - confidence| over confidence bins.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 3; bins of equal
    width, closed on the right.

    Args:
        confidence: Largest probability of each image, shape [N], in [0, 1].
        right: Whether the image was named rightly, shape [N].
        bins: Number of bins.

    Returns:
        In [0, 1]; none without images.
    """
    if not len(confidence):
        return None
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, right, bins) - np.bincount(
        place, confidence, bins
    )  # images of a bin x its gap
    return float(np.abs(gaps).sum() / len(confidence))


def average_accuracy(accuracies: Sequence[float]) -> float:
    """Return the plain mean over tasks of the accuracy on all classes seen so far."""
    return float(np.mean(accuracies))


def forgetting(matrix: Sequence[Sequence[float]], images_per_task: Sequence[int]) -> float | None:
    """Return ``sum_i n_i max_{t<T} (a_t,i - a_T,i) / sum_i n_i``, the average forgetting.

    Source: FedIMD, equation 16, its bracket read as the text says (the size of a task weighs its
    whole term), for one common test set.

    Args:
        matrix: The accuracy matrix; row t has t + 1 values.
        images_per_task: Test images of each task, n_i.

    Returns:
        Drop of accuracy in [-1, 1]; none while fewer than two tasks ended.
    """
    last = len(matrix) - 1
    if last < 1:
        return None
    drops = [max(matrix[t][i] for t in range(i, last)) - matrix[last][i] for i in range(last)]
    return float(np.average(drops, weights=images_per_task[:last]))


@dataclass(frozen=True)
class DetectionCount:
    """How a detector did.

    Args:
        boundaries: (twin, task) pairs in which classes unknown to the federation reached the twin.
        noticed_at_once: Of these, how many the twin noticed in the first round.
        noticed_late: How many in a later round.
        false_alarms: Signals where nothing unknown had arrived.
        looks: Pairs of twin and task in which the twin took part.
    """

    boundaries: int
    noticed_at_once: int
    noticed_late: int
    false_alarms: int
    looks: int

    def as_plain(self) -> dict[str, float | int | None]:
        """Return counts, hit rate and false alarms per twin and task."""
        return {
            "boundaries": self.boundaries,
            "noticed_at_once": self.noticed_at_once,
            "noticed_late": self.noticed_late,
            "missed": self.boundaries - self.noticed_at_once - self.noticed_late,
            "false_alarms": self.false_alarms,
            "twin_tasks": self.looks,
            "hit_rate": self.noticed_at_once / self.boundaries if self.boundaries else None,
            "false_alarms_per_twin_and_task": self.false_alarms / self.looks
            if self.looks
            else None,
        }


def count_detections(
    rounds: Sequence[Mapping[str, Any]],
    fired: Callable[[Mapping[str, Any]], bool] = lambda seen: bool(seen["signal"]),
) -> DetectionCount:
    """Count hits and false alarms over the round records of a run.

    The very first task is left out of the boundaries: before it the model knows no class,
    everything is new, and there is nothing to detect.

    Args:
        rounds: Records with ``task`` and ``observations``: twin, signal, is_boundary (truth of the
            simulation), knows_nothing.
        fired: Which decision is judged: the followed rule's, or that of one that is only watched.
    """
    first: set[tuple[str, int]] = set()
    at_once: set[tuple[str, int]] = set()
    late: set[tuple[str, int]] = set()
    looks: set[tuple[str, int]] = set()
    false_alarms = 0
    for record in rounds:
        for seen in record["observations"]:
            pair = (seen["twin"], record["task"])
            if record["task"] == 0 and seen["knows_nothing"]:
                continue
            looks.add(pair)
            if seen["is_boundary"] and pair not in first:
                first.add(pair)
                if fired(seen):
                    at_once.add(pair)
            elif seen["is_boundary"] and fired(seen) and pair not in at_once:
                late.add(pair)
            elif fired(seen) and not seen["is_boundary"]:
                false_alarms += 1
    return DetectionCount(len(first), len(at_once), len(late - at_once), false_alarms, len(looks))
