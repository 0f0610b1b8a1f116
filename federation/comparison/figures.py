"""Figures of a comparison: accuracy by number of classes, one line per method.

For print and for README pages: light background, drawn once as SVG and PNG. Lines differ in colour,
dash and marker, so that fourteen of them can be told apart without colour too.
"""

import io
import warnings
from typing import TYPE_CHECKING, Any

from federation.comparison.outcomes import Block, Row
from federation.comparison.suite import Suite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colour-blind safe hues, darkened until each has a contrast of 3 on white; the
# reference is always the first.
_REFERENCE = "#0068a6"
_COLOURS = (
    "#b84700",
    "#007453",
    "#98397a",
    "#8a6000",
    "#5d6671",
    "#1f8fa8",
    "#7a4a2b",
    "#4b52a3",
    "#a3303c",
)
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
_INK, _MUTED, _GRID = "#1b1f24", "#545d68", "#d5dbe1"
_FEW_CLASSES = 12


def classes_figure(suite: Suite, block: Block, kind: str, dots_per_inch: int = 160) -> bytes | None:
    """Draw the metric after each task over the number of classes seen by then.

    Args:
        suite: What is compared.
        block: One experiment of it.
        kind: ``svg`` or ``png``.
        dots_per_inch: Of a PNG.

    Returns:
        The file; nothing where nothing has been run.
    """
    run = [row for row in block.rows if row.by_task]
    if not run:
        return None
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "comparison",
        "text.parse_math": False,
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "legend.frameon": False,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _MUTED,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "grid.color": _GRID,
        "axes.axisbelow": True,
    }
    buffer = io.BytesIO()
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing", category=UserWarning)
        figure = Figure(
            figsize=(7.6, 4.3), dpi=dots_per_inch, layout="constrained", facecolor="white"
        )
        axes = figure.subplots()
        for index, row in enumerate(
            sorted(run, key=lambda each: -(each.average.mean if each.average else 0))
        ):
            look = _look(suite, block, row)
            _line(axes, block, row, look, zorder=len(run) - index + 2)
            if (
                not suite.config.shrinkage
            ):  # a smaller experiment's curve beside the paper's would invite to compare them
                _published(axes, block, row, look)
        _frame(axes, suite, block)
        figure.legend(
            loc="outside right upper",
            handlelength=3.2,
            labelspacing=0.45,
            title="method (average)",
            alignment="left",
        )
        extra: dict[str, Any] = (
            {"metadata": {"Date": None, "Creator": None}} if kind == "svg" else {}
        )
        figure.savefig(buffer, format=kind, **extra)
    return buffer.getvalue()


def _look(suite: Suite, block: Block, row: Row) -> dict[str, Any]:
    """Return how a method is drawn.

    By its place in the suite, so that it looks the same in every figure of it.
    """
    if row.label == suite.config.reference:
        return {
            "color": _REFERENCE,
            "linestyle": "-",
            "linewidth": 2.6,
            "marker": "o",
            "markersize": 5.5,
        }
    others = [each.label for each in block.rows if each.label != suite.config.reference]
    place = others.index(row.label)
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "linestyle": _DASHES[(place // len(_COLOURS) + place) % len(_DASHES)],
        "linewidth": 1.4,
        "marker": _MARKERS[(place + 1) % len(_MARKERS)],
        "markersize": 4.5,
    }


def _line(axes: "Axes", block: Block, row: Row, look: dict[str, Any], zorder: int) -> None:
    means = [100 * each.mean for each in row.by_task]
    average = 0.0 if row.average is None else 100 * row.average.mean
    axes.plot(block.classes, means, label=f"{row.label} ({average:.1f})", zorder=zorder, **look)
    deviations = [100 * (each.deviation or 0.0) for each in row.by_task]
    if any(deviations):
        low, high = (
            [mean + sign * each for mean, each in zip(means, deviations, strict=True)]
            for sign in (-1, 1)
        )
        axes.fill_between(
            block.classes, low, high, color=look["color"], alpha=0.1, linewidth=0, zorder=1
        )


def _published(axes: "Axes", block: Block, row: Row, look: dict[str, Any]) -> None:
    if row.published is not None and len(row.published.by_task) == len(block.classes):
        marks = {
            "marker": look["marker"],
            "markersize": 6.5,
            "markerfacecolor": "none",
            "linestyle": "none",
        }
        axes.plot(
            block.classes,
            row.published.by_task,
            color=look["color"],
            label=f"{row.label}, published",
            **marks,
        )


def _frame(axes: "Axes", suite: Suite, block: Block) -> None:
    values = [100 * each.mean for row in block.rows for each in row.by_task]
    seeds = sorted({len(row.outcomes) for row in block.rows if row.outcomes})
    spread = "shade: ± 1 sd" if seeds[-1] > 1 else "one seed"
    axes.set_ylim(0 if min(values) < 50 else 10 * (min(values) // 10) - 5, 103)
    axes.set_xlabel("number of classes")
    axes.set_ylabel(
        f"{'accuracy' if suite.config.metric == 'accuracy' else 'macro-F1'} on all classes seen [%]"
    )
    if len(block.classes) <= _FEW_CLASSES:
        axes.set_xticks(block.classes)
    else:
        axes.set_xticks(block.classes[1::2])
    counts = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    axes.set_title(
        f"{block.experiment.title} (n = {counts}, {spread})", fontsize=9.5, color=_MUTED, loc="left"
    )
    axes.grid(visible=True, axis="y")
    axes.tick_params(length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
