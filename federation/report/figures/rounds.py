"""Figures of rounds: participation, losses and traffic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from federation.report.canvas import FULL_PIXELS, draw, label, quiet
from federation.report.figures.axes import chart_height, is_narrow, round_axis
from federation.report.folder import RunFolder
from federation.report.palette import paint, series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAINED, REJECTED, SILENT, WAITED = "trained", "update rejected", "chosen, no update", "not chosen"
_PIXELS_PER_TWIN = 22
_LOG_FROM = 30  # losses that differ by more than this factor need a logarithmic axis
_NO_LOSSES = (
    "gradient_norm",
)  # stands beside the losses in the records, but is none; it is in the table
_STYLES = ("-", "--", ":", "-.")
_NARROWEST_SEPARATED = 5  # px a round must have before a line between rounds is worth drawing


def joining_rounds(run: RunFolder) -> Mapping[str, int]:
    """First round of each hospital that came later than the first task, by the manifest."""
    begins = {task: first for task, first, _ in run.task_spans}
    later = {twin: int(entry.get("joins_at_task") or 0) for twin, entry in run.hospitals.items()}
    return {twin: begins[task] for twin, task in later.items() if task and task in begins}


def states(run: RunFolder, twin: str) -> list[tuple[int, str]]:
    """(round, state) of a twin for every round from its joining on."""
    hospital = run.hospitals.get(twin, {})
    task = int(hospital.get("joins_at_task") or 0)
    return [
        (r.round, _state(twin, r.chosen, r.accepted, [who for who, _ in r.rejected]))
        for r in run.rounds
        if r.task >= task
    ]


def _state(
    twin: str, chosen: tuple[str, ...], accepted: tuple[str, ...], rejected: list[str]
) -> str:
    if twin in rejected:
        return REJECTED
    if twin in accepted:
        return TRAINED
    return SILENT if twin in chosen else WAITED


def _stretches(found: list[tuple[int, str]]) -> Iterator[tuple[str, int, int]]:
    """(state, first round, number of rounds) of uninterrupted stretches.

    So 1000 rounds need no 1000 shapes.
    """
    for (state, _), group in groupby(
        enumerate(found), key=lambda entry: (entry[1][1], entry[1][0] - entry[0])
    ):
        rounds = [index for _, (index, _) in group]
        yield state, rounds[0], len(rounds)


def participation_figure(run: RunFolder, width: float) -> bytes | None:
    """Twins by rounds: who trained, whose update was rejected, who was not there yet.

    Who signalled new classes.
    """
    if not run.rounds or not run.twins:
        return None
    twins = run.twins
    joins = joining_rounds(run)
    rejections = [
        (twins.index(who), r.round) for r in run.rounds for who, _ in r.rejected if who in twins
    ]
    signals = [(twins.index(o.twin), index) for index, o in run.observations if o.signal]

    def paint_on(figure: Figure) -> None:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch, Rectangle

        looks: dict[str, dict[str, Any]] = {
            TRAINED: {"facecolor": paint("blue")},
            REJECTED: {
                "facecolor": paint("panel"),
                "edgecolor": paint("vermilion"),
                "linewidth": 1.4,
            },
            SILENT: {
                "facecolor": paint("panel"),
                "edgecolor": paint("muted"),
                "hatch": "////",
                "linewidth": 0.8,
            },
            WAITED: {"facecolor": paint("grid")},
        }
        axes = figure.subplots()
        present = set()
        for row, twin in enumerate(twins):
            for state, first, length in _stretches(states(run, twin)):
                inset = (
                    0.06 if state in (REJECTED, SILENT) else 0.0
                )  # their outline must not lie under a separator
                axes.add_patch(
                    Rectangle(
                        (first - 0.5 + inset, row - 0.38),
                        length - 2 * inset,
                        0.76,
                        zorder=2 if inset else 1,
                        **looks[state],
                    )
                )
                present.add(state)
        across = (width - 110) / len(run.rounds)
        if across >= _NARROWEST_SEPARATED:
            begins = {first for _, first, _ in run.task_spans}
            for record in run.rounds[1:]:
                axes.axvline(
                    record.round - 0.5,
                    color=paint("panel"),
                    linewidth=5 if record.round in begins else 1.6,
                    zorder=1.5,
                )
        mark = max(3.5, min(7.0, across * 0.5))
        cross: dict[str, Any] = {
            "marker": "x",
            "color": paint("vermilion"),
            "linestyle": "none",
            "markeredgewidth": 2,
        }
        dot: dict[str, Any] = {
            "marker": "o",
            "color": paint("panel"),
            "markeredgecolor": paint("ink"),
            "linestyle": "none",
            "markeredgewidth": 1.2,
        }
        arrow: dict[str, Any] = {"marker": ">", "color": paint("ink"), "linestyle": "none"}
        axes.plot(
            [x for _, x in rejections],
            [y for y, _ in rejections],
            markersize=mark,
            zorder=3,
            **cross,
        )
        axes.plot(
            [x for _, x in signals], [y for y, _ in signals], markersize=mark, zorder=4, **dot
        )
        axes.plot(
            [joins[t] - 1 for t in joins],
            [twins.index(t) for t in joins],
            markersize=7,
            zorder=4,
            **arrow,
        )
        axes.set_yticks(
            range(len(twins)), [label(twin, 14 if is_narrow(width) else 22) for twin in twins]
        )
        axes.set_ylim(len(twins) - 0.4, -0.6)
        quiet(axes, None)
        axes.spines["left"].set_visible(False)
        round_axis(axes, run, width - 110, zorder=1.6)
        handles: list[Patch | Line2D] = [
            Patch(label=state, **looks[state])
            for state in looks
            if state in present and state != REJECTED
        ]
        handles += [Line2D([], [], label=REJECTED, markersize=7, **cross)] if rejections else []
        handles += (
            [Line2D([], [], label="signalled new classes", markersize=7, **dot)] if signals else []
        )
        handles += [Line2D([], [], label="joins", markersize=7, **arrow)] if joins else []
        figure.legend(
            handles=handles,
            loc="outside upper left",
            ncols=2 if is_narrow(width) else 6,
            handlelength=1.2,
            columnspacing=1.4,
        )

    alt = (
        f"Grid of {len(twins)} twins by {len(run.rounds)} rounds: who trained when. {len(joins)} "
        "joined "
        f"later, {len(signals)} signals of new classes, {len(rejections)} rejected updates."
    )
    height = _PIXELS_PER_TWIN * len(twins) + (140 if is_narrow(width) else 100)
    return draw(f"participation-{width:.0f}", (width, height), alt, paint_on)


def losses_figure(run: RunFolder, width: float) -> bytes | None:
    """Each loss the method has, averaged over the twins that trained, by round."""
    names = [
        name
        for name in dict.fromkeys(name for r in run.rounds for name in r.losses)
        if name not in _NO_LOSSES
    ]
    if not names:
        return None
    # The total is what is minimised: it comes first and thickest.
    names.sort(key=lambda name: name != "total")
    curves = {
        name: [(r.round, r.losses[name]) for r in run.rounds if name in r.losses] for name in names
    }
    positive = [value for curve in curves.values() for _, value in curve if value > 0]
    is_log = (
        bool(positive)
        and len(positive) == sum(map(len, curves.values()))
        and max(positive) > _LOG_FROM * min(positive)
    )

    def paint_on(figure: Figure) -> None:
        from matplotlib.ticker import FuncFormatter, NullFormatter

        axes = figure.subplots()
        for place, (name, curve) in enumerate(curves.items()):
            axes.plot(
                [index for index, _ in curve],
                [value for _, value in curve],
                color=series(place),
                linewidth=2.6 if name == "total" else 1.8,
                linestyle=_STYLES[place % len(_STYLES)],
                marker="o" if len(curve) == 1 else None,
                label=label(name),
            )
        if is_log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.set_ylabel("loss (logarithmic)" if is_log else "loss")
        quiet(axes)
        axes.tick_params(which="minor", length=0)
        round_axis(axes, run, width - 60)
        figure.legend(
            loc="outside upper left",
            ncols=2 if is_narrow(width) else 4,
            handlelength=2.2,
            columnspacing=1.4,
        )

    said = "; ".join(
        f"{name} from {curve[0][1]:.3g} to {curve[-1][1]:.3g}" for name, curve in curves.items()
    )
    return draw(
        f"losses-{width:.0f}",
        (width, chart_height(width)),
        f"Line chart of the losses by round: {said}.",
        paint_on,
    )


def traffic_figure(run: RunFolder, width: float) -> bytes | None:
    """Megabytes of each round: up to the server above the line, down to the twins below."""
    up = [(r.round, r.megabytes_up) for r in run.rounds if r.megabytes_up is not None]
    down = [(r.round, r.megabytes_down) for r in run.rounds if r.megabytes_down is not None]
    if not up and not down:
        return None

    def paint_on(figure: Figure) -> None:
        from matplotlib.ticker import FuncFormatter

        axes = figure.subplots()
        axes.bar(
            [i for i, _ in up],
            [value for _, value in up],
            width=0.8,
            color=series(0),
            label="up, twins to server",
        )
        axes.bar(
            [i for i, _ in down],
            [-value for _, value in down],
            width=0.8,
            facecolor=paint("soft"),
            edgecolor=series(1),
            linewidth=1.4,
            label="down, server to twins",
        )
        axes.axhline(0, color=paint("ink"), linewidth=1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):g}"))
        axes.set_ylabel("megabytes")
        axes.margins(y=0.08)
        quiet(axes)
        round_axis(axes, run, width - 60)
        figure.legend(
            loc="outside upper left",
            ncols=1 if is_narrow(width) else 2,
            handlelength=1.4,
            columnspacing=1.4,
        )

    totals = (sum(value for _, value in up), sum(value for _, value in down))
    alt = f"Bar chart of megabytes by round: {totals[0]:.1f} up and {totals[1]:.1f} down in all."
    height = chart_height(width) if width < FULL_PIXELS else 260
    return draw(f"traffic-{width:.0f}", (width, height), alt, paint_on)
