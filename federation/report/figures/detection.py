"""Detection figure: prediction entropy over time, threshold and signals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from federation.report.canvas import FULL_PIXELS, draw, label, quiet
from federation.report.figures.axes import is_narrow, round_axis
from federation.report.folder import RunFolder
from federation.report.palette import paint, series
from federation.report.records import FALSE_ALARM, HIT, MISS, Observation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_TWINS = 24  # more panels than this nobody reads; the table has them all
_MARKS = {
    HIT: ("o", "green", True),
    MISS: ("X", "vermilion", True),
    FALSE_ALARM: ("^", "purple", False),
}
_PIXELS_PER_PANEL = 150
_SAME = 1e-9  # numbers closer than this are one number, written twice
_MOST_DOTTED = 48  # more rounds than this and the dots run into a band


def entropy_figure(run: RunFolder, width: float) -> bytes | None:
    """One small panel per twin.

    Entropy, the detector's statistic and threshold, and where it was right or wrong.
    """
    by_twin: dict[str, list[tuple[int, Observation]]] = {twin: [] for twin in run.twins}
    for index, observation in run.observations:
        by_twin[observation.twin].append((index, observation))
    twins = [
        twin
        for twin, seen in by_twin.items()
        if any(observation.was_judged for _, observation in seen)
    ][:MOST_TWINS]
    if not twins:
        return None
    values = [
        v
        for _, o in run.observations
        if o.was_judged
        for v in (o.entropy, o.statistic, o.threshold)
        if v is not None
    ]
    top, bottom = max(1.0, *values), min(0.0, *values)
    columns = min(len(twins), 2 if is_narrow(width) else 4)
    rows = -(-len(twins) // columns)

    def paint_on(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(twins):
                axes.set_visible(False)
                continue
            _paint_twin(axes, by_twin[twins[place]], top, bottom)
            axes.set_title(
                label(twins[place], 15 if is_narrow(width) else 24),
                loc="left",
                fontweight="bold",
                fontsize=12.5,
            )
            quiet(axes)
            is_lowest = place + columns >= len(twins)
            round_axis(axes, run, width / columns - 30, show_tasks=False)
            axes.tick_params(labelbottom=is_lowest)
            axes.set_xlabel("round" if is_lowest else "")
            axes.set_ylim(bottom - 0.03 * (top - bottom), top + 0.32 * (top - bottom))
            ticks = [0, 0.5, 1] if (top, bottom) == (1.0, 0.0) else axes.get_yticks()
            axes.set_yticks(
                [tick for tick in ticks if bottom <= tick <= top]
            )  # none beside the lane of marks
            axes.set_ylim(bottom - 0.03 * (top - bottom), top + 0.32 * (top - bottom))
        _paint_legend(
            figure,
            [o for _, o in run.observations],
            2 if is_narrow(width) else 6 if width >= FULL_PIXELS else 3,
        )

    counts = {
        name: sum(o.was_judged and o.outcome == name for _, o in run.observations)
        for name in _MARKS
    }
    alt = (
        f"Small line charts, one for each of {len(twins)} twins: prediction entropy by round, and "
        "the threshold. "
        f"Hits {counts[HIT]}, misses {counts[MISS]}, false alarms {counts[FALSE_ALARM]}."
    )
    height = rows * _PIXELS_PER_PANEL + (
        100 if is_narrow(width) else 50 if width >= FULL_PIXELS else 70
    )
    return draw(f"entropy-{width:.0f}", (width, height), alt, paint_on)


def _differs(observations: Sequence[Observation]) -> bool:
    """Whether the detector looks at something else than the plain entropy."""
    return any(
        o.statistic is not None and (o.entropy is None or abs(o.statistic - o.entropy) > _SAME)
        for o in observations
    )


def _paint_twin(
    axes: Axes, seen: Sequence[tuple[int, Observation]], top: float, bottom: float
) -> None:
    entropies = [(index, o.entropy) for index, o in seen if o.entropy is not None]
    thresholds = [
        (index, o.threshold) for index, o in seen if o.threshold is not None and o.was_judged
    ]
    statistics = [(index, o.statistic) for index, o in seen if o.statistic is not None]
    axes.plot(
        *_columns(entropies),
        color=series(0),
        linewidth=1.8,
        marker="." if len(entropies) <= _MOST_DOTTED else None,
        markersize=5,
    )
    if _differs([o for _, o in seen]):
        axes.plot(*_columns(statistics), color=series(4), linewidth=1.4, linestyle="--")
    axes.plot(*_columns(thresholds), color=paint("ink"), linewidth=1.3, linestyle=":")
    lane = top + 0.17 * (top - bottom)
    for index, observation in seen:
        if observation.outcome in _MARKS and observation.was_judged:
            mark, colour, filled = _MARKS[observation.outcome]
            axes.plot(
                [index, index],
                [bottom, lane],
                color=paint(colour),
                linewidth=1,
                alpha=0.6,
                zorder=1,
            )
            axes.plot(
                index,
                lane,
                mark,
                color=paint(colour),
                markerfacecolor=paint(colour if filled else "panel"),
                markersize=8.5,
                markeredgewidth=1.6 if not filled else 0.8,
                zorder=4,
            )


def _columns(pairs: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [index for index, _ in pairs], [value for _, value in pairs]


def _paint_legend(figure: Figure, observations: Sequence[Observation], columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=series(0), linewidth=1.8, marker=".", label="entropy (1 = ln C)")
    ]
    if _differs(observations):
        handles.append(
            Line2D([], [], color=series(4), linewidth=1.4, linestyle="--", label="statistic")
        )
    handles.append(
        Line2D([], [], color=paint("ink"), linewidth=1.3, linestyle=":", label="threshold")
    )
    for name, (mark, colour, filled) in _MARKS.items():
        face = paint(colour if filled else "panel")
        handles.append(
            Line2D(
                [],
                [],
                color=paint(colour),
                marker=mark,
                markerfacecolor=face,
                linestyle="none",
                markersize=8.5,
                label=name,
            )
        )
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=columns,
        handlelength=1.8,
        columnspacing=1.4,
    )
