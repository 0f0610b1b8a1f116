"""Gallery of a report: which figures, in which order, with which captions.

Knows every figure and its table, nothing of HTML.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from federation.report import figures, tables
from federation.report.canvas import FULL_PIXELS, HALF_PIXELS, NARROW_PIXELS
from federation.report.figures.detection import MOST_TWINS
from federation.report.figures.matrices import MOST_NUMBERED_CLASSES, last_confusion
from federation.report.folder import RunFolder
from federation.report.tables import Table

_MOST_CLASSES_IN_A_COLUMN = 16
_MOST_CLASSES_ON_A_PHONE = 12


@dataclass(frozen=True)
class Plate:
    """A figure with its words and the numbers behind it, still to be drawn."""

    title: str
    text: str
    missing: str  # what stands there if there is nothing to draw
    draw: Callable[[RunFolder, float], bytes | None]
    tabulate: Callable[[RunFolder], Table | None]
    is_full: bool = False  # as wide as the page, or half of it
    has_phone_form: bool = (
        True  # False: it cannot be made legible there, so it is shown whole and scrolled
    )


@dataclass(frozen=True)
class Drawn:
    """A plate with its figure; no figure where the run has nothing to draw."""

    plate: Plate
    wide: str | None
    narrow: str | None
    table: Table | None


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    anchor: str
    title: str
    plates: tuple[Drawn, ...]


def sections(run: RunFolder) -> list[Section]:
    """All figures of a run by section."""
    plates = {
        ("accuracy", "Accuracy and forgetting"): _accuracy_plates(run),
        ("classes", "Classes"): _class_plates(run),
        ("detection", "Detection of new classes"): _detection_plates(run),
        ("rounds", "Twins, rounds and costs"): _round_plates(),
    }
    return [
        Section(anchor, title, tuple(_drawn(run, plate) for plate in found))
        for (anchor, title), found in plates.items()
    ]


def _drawn(run: RunFolder, plate: Plate) -> Drawn:
    wide = plate.draw(run, FULL_PIXELS if plate.is_full else HALF_PIXELS)
    narrow = plate.draw(run, NARROW_PIXELS) if plate.has_phone_form else None
    return Drawn(
        plate,
        wide=wide.decode() if wide else None,
        narrow=narrow.decode() if narrow else None,
        table=plate.tabulate(run),
    )


def _accuracy_plates(run: RunFolder) -> list[Plate]:
    return [
        Plate(
            "Accuracy over time",
            f"All classes seen so far, on the {run.measured_on}. A dashed upright line is where "
            "new classes appear: "
            "the test grows harder there.",
            "No accuracy has been measured yet.",
            figures.accuracy_figure,
            tables.accuracy_table,
            is_full=True,
        ),
        Plate(
            "Accuracy matrix",
            "Each row: the model after that task, tested on the classes of each task so far. Read "
            "a column downwards "
            "to see a task being forgotten.",
            "No task has finished yet.",
            figures.matrix_figure,
            tables.matrix_table,
        ),
        Plate(
            "Forgetting per task",
            "For each task before the last: its best earlier accuracy and its last one.",
            "At least two tasks must finish before anything can be forgotten.",
            figures.forgetting_figure,
            tables.forgetting_table,
        ),
    ]


def _class_plates(run: RunFolder) -> list[Plate]:
    found = last_confusion(run)
    num_classes = len(found[0].seen_classes) if found else 0
    is_full = num_classes > _MOST_CLASSES_IN_A_COLUMN
    reading = (
        ", in percent of the row; a dot is none. Rest the pointer on a cell for its count."
        if num_classes <= MOST_NUMBERED_CLASSES
        else "; the stronger the colour, the larger the share of the row. The table lists the "
        "commonest confusions."
    )
    return [
        Plate(
            "Confusion matrix",
            f"After the last finished task, {run.measured_on}. Rows are true classes, columns what "
            f"the model said{reading}",
            "No confusion matrix has been recorded yet.",
            figures.confusion_figure,
            tables.confusion_table,
            is_full=is_full,
            has_phone_form=num_classes <= _MOST_CLASSES_ON_A_PHONE,
        ),
        Plate(
            "Accuracy per class",
            "Now, and when the class was new. A dashed line parts the tasks.",
            "No task has finished yet.",
            figures.classes_figure,
            tables.class_table,
            is_full=is_full,
        ),
    ]


def _detection_plates(run: RunFolder) -> list[Plate]:
    rest = (
        f" Only the first {MOST_TWINS} of {len(run.twins)} twins are drawn."
        if len(run.twins) > MOST_TWINS
        else ""
    )
    return [
        Plate(
            "Prediction entropy of each twin",
            "How unsure the global model is about a hospital's new images, before anyone trains. "
            "Marks above a panel: "
            "a filled circle is a hit (new classes came and were signalled), a cross a miss, a "
            "hollow triangle a false "
            f"alarm.{rest}",
            "No entropy was recorded in this run.",
            figures.entropy_figure,
            tables.entropy_table,
            is_full=True,
        ),
    ]


def _round_plates() -> list[Plate]:
    return [
        Plate(
            "Who trained when",
            "Each row a hospital's twin, each column a round. Empty: not yet joined.",
            "No round has been recorded.",
            figures.participation_figure,
            tables.participation_table,
            is_full=True,
        ),
        Plate(
            "Losses",
            "Mean over the twins that trained in a round.",
            "No loss was recorded in this run.",
            figures.losses_figure,
            tables.loss_table,
        ),
        Plate(
            "Megabytes travelled",
            "In each round, all twins together.",
            "No traffic was recorded in this run.",
            figures.traffic_figure,
            tables.round_table,
        ),
    ]
