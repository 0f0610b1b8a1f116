"""Heat maps: accuracy by task and task, and confusion between classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from federation.report.canvas import draw, label
from federation.report.figures.axes import is_narrow, percent
from federation.report.folder import RunFolder
from federation.report.palette import heat_step, paint
from federation.report.records import TaskRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SMALLEST_NUMBERED_CELL = 19  # px; below, a number would not be readable
_ROOM_FOR_WORDS, _ROOM_FOR_A_DIGIT = 56, 40  # px
_LOWEST_CELL, _TALLEST_CELL = 7, 40  # px
MOST_NUMBERED_CLASSES = 30


def _paint_cells(
    axes: Axes,
    shares: NDArray[np.float64],
    texts: Sequence[Sequence[str]],
    cell: float,
    prefix: str,
) -> None:
    """Paint a matrix of shares; NaN is a cell that does not exist."""
    from matplotlib.patches import Rectangle

    rows, columns = shares.shape
    numbered = cell >= _SMALLEST_NUMBERED_CELL
    for row, column in np.argwhere(np.isfinite(shares)):
        step = heat_step(float(shares[row, column]))
        if step or numbered:
            tile = Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                facecolor=paint(f"heat-{step}"),
                edgecolor=paint("panel"),
                linewidth=1.2,
            )
            tile.set_in_layout(
                False
            )  # it lies inside the axes; measuring thousands of tiles takes seconds
            tile.set_gid(f"{prefix}-{row}-{column}")
            axes.add_patch(tile)
        if numbered:
            number = axes.text(
                column,
                row,
                texts[row][column],
                ha="center",
                va="center",
                color=paint(f"on-heat-{step}"),
                fontsize=max(8.5, min(13, 0.4 * cell)),
            )
            number.set_in_layout(False)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(not numbered)


def accuracy_matrix(run: RunFolder) -> NDArray[np.float64]:
    """Accuracy after each task (rows) on each task's classes (columns), NaN.

    Where a task was not yet seen.
    """
    rows = [record.accuracy_row for record in run.tasks]
    matrix = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for place, (row, record) in enumerate(zip(rows, run.tasks, strict=True)):
        for task, value in enumerate(row):
            if value is not None and task <= record.task:
                matrix[place, task] = value
    return matrix


def matrix_figure(run: RunFolder, width: float) -> bytes | None:
    """The accuracy matrix: down a column one sees a task being forgotten."""
    matrix = accuracy_matrix(run)
    if not matrix.size:
        return None
    rows, columns = matrix.shape
    cell = (width - 90) / columns
    tall = min(cell, 54)

    def paint_on(figure: Figure) -> None:
        axes = figure.subplots()
        texts = [
            [percent(value, 1 if cell >= _ROOM_FOR_A_DIGIT else 0) for value in row]
            for row in matrix
        ]
        _paint_cells(axes, matrix, texts, min(cell, tall), "tile")
        axes.set_xticks(
            range(columns),
            [f"task {task}" if cell >= _ROOM_FOR_WORDS else str(task) for task in range(columns)],
        )
        axes.set_yticks(range(rows), [f"task {record.task}" for record in run.tasks])
        axes.set_xlabel(
            "accuracy in percent on the classes of" + ("" if cell >= _ROOM_FOR_WORDS else " task")
        )
        axes.set_ylabel("after")

    said = "; ".join(
        f"after task {record.task}: "
        + ", ".join(percent(value, 0) for value in row if np.isfinite(value))
        for record, row in zip(run.tasks, matrix, strict=True)
    )
    return draw(
        f"matrix-{width:.0f}",
        (width, 70 + tall * rows),
        f"Heat map of the accuracy matrix in percent; {said}.",
        paint_on,
    )


def last_confusion(run: RunFolder) -> tuple[TaskRecord, NDArray[np.int64]] | None:
    """The latest task that has a confusion matrix, with it."""
    for record in reversed(run.tasks):
        if record.confusion is not None:
            return record, record.confusion
    return None


def row_shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each row of a confusion matrix divided by its sum; NaN for a class without a test image."""
    totals = confusion.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(
        confusion, totals, out=np.full(confusion.shape, np.nan), where=totals > 0, dtype=np.float64
    )
    return shares


def confusion_figure(run: RunFolder, width: float) -> bytes | None:
    """Which class is taken for which after the last finished task.

    Rows true, each 100 in all, columns predicted.
    """
    found = last_confusion(run)
    if found is None:
        return None
    record, counts = found
    shares = row_shares(counts)
    count = len(record.seen_classes)
    names, predicted = (
        [label(name, 12 if is_narrow(width) else 18) for name in shown]
        for shown in (record.seen_classes, record.predicted_names)
    )
    margin = 26 + 7.2 * max(map(len, predicted))
    cell = (width - margin) / len(predicted)
    tall = max(_LOWEST_CELL, min(cell, _TALLEST_CELL))

    def paint_on(figure: Figure) -> dict[str, str]:
        axes = figure.subplots()
        texts = [[percent(value, 0) if value > 0 else "\u00b7" for value in row] for row in shares]
        _paint_cells(axes, shares, texts, min(cell, tall), "pair")
        small: dict[str, Any] = {"fontsize": max(6.5, min(12.0, 0.8 * tall))}
        axes.set_xticks(range(len(predicted)), predicted, rotation=90, **small)
        axes.set_yticks(range(count), names, **small)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if count > MOST_NUMBERED_CLASSES:
            return {}
        return {
            f"pair-{row}-{column}": f"{record.seen_classes[row]} taken for "
            f"{record.predicted_names[column]}: "
            f"{counts[row, column]} of {counts[row].sum()} images"
            for row in range(count)
            for column in range(len(predicted))
        }

    right = int(np.trace(counts))
    alt = (
        f"Confusion matrix after task {record.task}, {count} classes: {right} of "
        f"{int(counts.sum())} {run.measured_on} "
        "lie on the diagonal, that is, are recognised. The numbers are in the table."
    )
    return draw(f"confusion-{width:.0f}", (width, tall * count + margin + 8), alt, paint_on)
