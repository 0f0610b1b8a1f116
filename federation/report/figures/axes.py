"""Axes that several figures share: rounds, percent, heights.

Knows rounds and tasks, but no quantity that is drawn over them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from federation.report.canvas import FULL_PIXELS, NARROW_PIXELS
from federation.report.folder import RunFolder
from federation.report.palette import paint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PIXELS_PER_TASK_LABEL = 52
_FEW_ROUNDS = 5


def is_narrow(width: float) -> bool:
    """Whether the figure is for a phone."""
    return width <= NARROW_PIXELS


def percent(share: float, digits: int = 1) -> str:
    """A share as percent, with the digits asked for."""
    return f"{100 * share:.{digits}f}"


def percent_axis(axes: Axes, along: str = "y") -> None:
    """Let an axis run from 0 to 100 percent of a share between 0 and 1."""
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    words = [f"{100 * tick:.0f}" for tick in ticks]
    if along == "y":
        axes.set_yticks(ticks, words)
        axes.set_ylim(0, 1.03)
    else:
        axes.set_xticks(ticks, words)
        axes.set_xlim(0, 1)


def round_axis(
    axes: Axes, run: RunFolder, width: float, *, show_tasks: bool = True, zorder: float = 0.5
) -> None:
    """Let the horizontal axis count rounds and mark where a task begins.

    Args:
        axes: Axes to paint on.
        run: The run whose tasks are marked.
        width: Width of the axes, roughly [px]; decides whether every task gets its name.
        show_tasks: Whether the tasks' names stand above the axes.
        zorder: How far in front the boundaries lie; cells are drawn at 1.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator

    spans = run.task_spans
    first, last = (spans[0][1], max(span[2] for span in spans)) if spans else (0, 1)
    # The last task's end needs room for its number, hence the half round on either side.
    axes.set_xlim(first - 0.6, last + 0.6)
    # Few rounds would get ticks between them, and there is no round 0.25.
    few = last - first < _FEW_ROUNDS
    axes.xaxis.set_major_locator(
        FixedLocator(range(first, last + 1))
        if few
        else MaxNLocator(nbins=max(3, int(width // 45)), integer=True, min_n_ticks=1)
    )
    axes.set_xlabel("round")
    stride = max(1, -(-len(spans) * _PIXELS_PER_TASK_LABEL // max(1, int(width))))
    for place, (task, begin, end) in enumerate(spans):
        if place:
            axes.axvline(
                begin - 0.5, color=paint("muted"), linewidth=1, linestyle=(0, (4, 3)), zorder=zorder
            )
        if show_tasks and place % stride == 0:
            axes.text(
                (begin + end) / 2,
                1.01,
                f"task {task}",
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="bottom",
                color=paint("muted"),
                fontsize=12,
            )


def chart_height(width: float) -> float:
    """Height of an ordinary chart [px]."""
    return 250 if is_narrow(width) else 300 if width < FULL_PIXELS else 320
