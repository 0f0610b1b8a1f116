"""Accuracy figures: over time, by task and by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from federation.report.canvas import FULL_PIXELS, draw, label, quiet
from federation.report.figures.axes import (
    chart_height,
    is_narrow,
    percent,
    percent_axis,
    round_axis,
)
from federation.report.folder import RunFolder
from federation.report.palette import paint, series
from federation.report.records import TaskRecord

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PIXELS_PER_NUMBER = 40
_ROW, _TALL_ROW = 26, 43  # px; few classes get as much room as in the confusion matrix beside them
_FEW_CLASSES = 12
_ROWS_IN_A_COLUMN, _MOST_COLUMNS = 20, 3
_NEW: dict[str, Any] = {
    "marker": "D",
    "color": paint("ink"),
    "markerfacecolor": paint("panel"),
    "markersize": 6.5,
    "markeredgewidth": 1.6,
    "linestyle": "none",
    "zorder": 3,
}


def accuracy_figure(run: RunFolder, width: float) -> bytes | None:
    """Accuracy over all seen classes.

    After every round where it was measured, and at each task's end with macro-F1.
    """
    ends = [record for record in run.tasks if record.accuracy is not None]
    rounds = [record for record in run.rounds if record.accuracy is not None]
    if not ends and not rounds:
        return None
    said = ", ".join(
        f"task {record.task}: {percent(record.accuracy or 0)} percent" for record in ends
    )

    def paint_on(figure: Figure) -> None:
        axes = figure.subplots()
        if rounds:
            axes.plot(
                [r.round for r in rounds],
                [r.accuracy or 0 for r in rounds],
                color=series(0),
                label="accuracy, each round",
            )
        axes.plot(
            [r.round for r in ends],
            [r.accuracy or 0 for r in ends],
            color=series(0),
            marker="o",
            markersize=8,
            linestyle="none" if rounds else "-",
            label="accuracy, end of task",
            zorder=3,
        )
        scored = [r for r in ends if r.macro_f1 is not None]
        axes.plot(
            [r.round for r in scored],
            [r.macro_f1 or 0 for r in scored],
            color=series(1),
            marker="s",
            markersize=7,
            linestyle=":",
            linewidth=1.5,
            markerfacecolor=paint("panel"),
            markeredgewidth=1.8,
            label="macro-F1, end of task",
        )
        crowded = len(ends) * _PIXELS_PER_NUMBER > width
        for record in ends[-1:] if crowded else ends:
            place = (record.round, record.accuracy or 0)
            axes.annotate(
                percent(place[1]),
                place,
                (0, 8),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontweight="bold",
                zorder=4,
                bbox={"facecolor": paint("panel"), "edgecolor": "none", "pad": 1.5},
            )
        percent_axis(axes)
        axes.set_ylim(0, 1.18)  # room for the numbers above the points
        axes.set_ylabel("percent")
        quiet(axes)
        round_axis(axes, run, width - 60)
        figure.legend(
            loc="outside upper left",
            ncols=1 if is_narrow(width) else 3,
            handlelength=1.6,
            columnspacing=1.4,
        )

    said = said or "no task has ended"
    alt = (
        "Line chart: accuracy over all classes seen so far, by round, with task boundaries; "
        f"{said}."
    )
    height = chart_height(width) + (40 if is_narrow(width) else 0)
    return draw(f"accuracy-{width:.0f}", (width, height), alt, paint_on)


def drops(run: RunFolder) -> list[tuple[int, float, float]]:
    """What became of each task before the last.

    Args:
        run: A run in which at least two tasks ended; with fewer there is nothing to forget.

    Returns:
        (task, best earlier accuracy, last accuracy); best minus last is that task's forgetting in
        FedIMD's equation 16.
    """
    if not run.tasks:
        return []
    *earlier, last = [record.accuracy_row for record in run.tasks]
    found = []
    for task, now in enumerate(last):
        before = [row[task] for row in earlier if len(row) > task]
        known = [value for value in before if value is not None]
        if known and now is not None:
            found.append((task, max(known), now))
    return found


def forgetting_figure(run: RunFolder, width: float) -> bytes | None:
    """For each task before the last.

    The way from its best earlier accuracy down to its last one.
    """
    found = drops(run)
    if not found:
        return None

    def paint_on(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (_, best, now) in enumerate(found):
            axes.plot(
                [best, now],
                [row, row],
                color=paint("muted"),
                linewidth=2.5,
                zorder=2,
                solid_capstyle="butt",
            )
            points = f"{100 * (now - best):+.1f}".replace("-", "\u2212")
            axes.annotate(
                f"{points} points",
                ((best + now) / 2, row),
                (0, 9),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontweight="bold",
            )
        rows = range(len(found))
        axes.plot(
            [best for _, best, _ in found],
            rows,
            "o",
            color=series(0),
            markersize=9,
            markerfacecolor=paint("panel"),
            markeredgewidth=2,
            label="best earlier accuracy",
            zorder=3,
        )
        axes.plot(
            [now for *_, now in found],
            rows,
            "o",
            color=series(1),
            markersize=9,
            label="last accuracy",
            zorder=3,
        )
        axes.set_yticks(rows, [f"task {task}" for task, *_ in found])
        axes.set_ylim(len(found) - 0.5, -0.6)
        percent_axis(axes, "x")
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel("accuracy on that task's classes, percent")
        quiet(axes, "x")
        figure.legend(loc="outside upper left", ncols=2, handlelength=1, columnspacing=1.4)

    said = "; ".join(
        f"task {task}: from {percent(best)} to {percent(now)} percent" for task, best, now in found
    )
    return draw(
        f"forgetting-{width:.0f}",
        (width, 100 + 48 * len(found)),
        f"Chart: forgetting per task. {said}.",
        paint_on,
    )


def first_accuracy(run: RunFolder, name: str) -> tuple[int, float] | None:
    """(task, accuracy) of a class at the end of the first task in which the model knew it."""
    for record in run.tasks:
        if name in record.per_class_accuracy:
            return record.task, record.per_class_accuracy[name]
    return None


def classes_figure(run: RunFolder, width: float) -> bytes | None:
    """Accuracy of every seen class at the last task's end.

    What it was when the class was new.
    """
    shown = [record for record in run.tasks if record.per_class_accuracy]
    if not shown:
        return None
    last: TaskRecord = shown[-1]
    names = [name for name in last.seen_classes if name in last.per_class_accuracy] or list(
        last.per_class_accuracy
    )
    now = [last.per_class_accuracy[name] for name in names]
    firsts = [
        first_accuracy(run, name) or (last.task, value)
        for name, value in zip(names, now, strict=True)
    ]

    columns = 1 if width < FULL_PIXELS else min(_MOST_COLUMNS, -(-len(names) // _ROWS_IN_A_COLUMN))
    per_column = -(-len(names) // columns)

    def paint_on(figure: Figure) -> None:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        grid = figure.subplots(1, columns, squeeze=False)
        for place, axes in enumerate(grid[0]):
            part = slice(place * per_column, (place + 1) * per_column)
            shown_names = [label(name, 16 if is_narrow(width) else 22) for name in names[part]]
            _paint_classes(axes, shown_names, now[part], firsts[part], last.task)
            axes.set_ylim(per_column - 0.4, -0.6)
        handles: list[Artist] = [Patch(color=series(0), label=f"after task {last.task}")]
        if any(task != last.task for task, _ in firsts):
            handles.append(Line2D([], [], **_NEW, label="when the class was new"))
        figure.legend(
            handles=handles, loc="outside upper left", ncols=2, handlelength=1.2, columnspacing=1.4
        )

    alt = f"Bar chart: accuracy of each class after task {last.task}. " + ", ".join(
        f"{name} {percent(value, 0)} percent" for name, value in zip(names, now, strict=True)
    )
    tall = _TALL_ROW if len(names) <= _FEW_CLASSES and not is_narrow(width) else _ROW
    return draw(f"classes-{width:.0f}", (width, 98 + tall * per_column), alt, paint_on)


def _paint_classes(
    axes: Axes, names: list[str], now: list[float], firsts: list[tuple[int, float]], last_task: int
) -> None:
    rows = list(range(len(names)))
    axes.barh(rows, now, height=0.62, color=series(0))
    older = [row for row in rows if firsts[row][0] != last_task]
    axes.plot([firsts[row][1] for row in older], older, **_NEW)
    for row, value in zip(rows, now, strict=True):
        axes.text(1.03, row, percent(value), va="center", ha="left", fontsize=12)
    for row in rows[1:]:
        if firsts[row][0] != firsts[row - 1][0]:
            axes.axhline(row - 0.5, color=paint("muted"), linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(rows, names)
    percent_axis(axes, "x")
    axes.set_xlim(0, 1.18)
    axes.set_xlabel("accuracy, percent")
    quiet(axes, "x")
