"""Geometry of the pages' figures: bars, curves and axes as numbers, drawn as SVG by ``parts.html``.

The content security policy forbids inline styles and scripts, so a figure consists of SVG elements
whose classes the style sheet colours. Each figure has a table of its numbers for readers who
cannot see it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import ceil, floor, isfinite, log10
from typing import TypeGuard

WIDTH, HEIGHT = 420, 220  # units of the view box
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 12, 40  # margins around the plot
_PLOT_WIDTH, _PLOT_HEIGHT = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
_MOST_DAYS = 120  # with more, only days with images are drawn
_SHORTEST_BAR = 1.5  # units, so that every count above 0 is visible
DIFFERENCE_WIDTH = 120


@dataclass(frozen=True)
class Bar:
    """One bar with its tooltip."""

    left: float
    top: float
    width: float
    height: float
    css_class: str
    tooltip: str


@dataclass(frozen=True)
class Tick:
    """A place on an axis and its text."""

    at: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True)
class Curve:
    """A line through points, with dots on some of them."""

    points: str
    dots: tuple[tuple[float, float], ...]
    css_class: str


@dataclass(frozen=True)
class LegendEntry:
    """An entry of the legend; ``kind`` is ``bar``, ``line`` or ``mark``."""

    kind: str
    css_class: str
    label: str


@dataclass(frozen=True)
class Table:
    """The numbers of a figure."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A figure.

    Args:
        alt: Description for readers who cannot see it.
        x_label: Label below the horizontal axis.
        y_label: Label above the vertical axis.
        x_ticks: Ticks of the horizontal axis.
        y_ticks: Ticks of the vertical axis.
        table: Its numbers.
        bars: Bars.
        curves: Curves.
        marks: Vertical lines.
        legend: Entries of the legend.
        left: Left end of the plot.
        right: Right end of the plot.
        top: Upper end of the plot.
        bottom: Lower end of the plot.
    """

    alt: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    table: Table
    bars: tuple[Bar, ...] = ()
    curves: tuple[Curve, ...] = ()
    marks: tuple[Tick, ...] = ()
    legend: tuple[LegendEntry, ...] = ()
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


@dataclass(frozen=True)
class DifferenceBar:
    """A bar from the middle to the left (loss) or to the right (gain)."""

    left: float
    width: float
    css_class: str


def entropy_chart(case: Sequence[int], usual: Sequence[int], threshold: float | None) -> Chart:
    """Draw the entropies of a case beside the usual ones of its hospital, as shares of each.

    Args:
        case: Images of the case in equal bins from 0 to 1.
        usual: The hospital's usual images in the same bins.
        threshold: Entropy above which an image looks new; None if another score decided.
    """
    num_bins = max(len(case), len(usual), 1)
    ours, theirs = _shares(case, num_bins), _shares(usual, num_bins)
    top, y_ticks = _axis(max([*ours, *theirs, 0.05]), percent=True)
    step = _PLOT_WIDTH / num_bins
    bars = []
    for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        span = f"{index / num_bins:.2f} to {(index + 1) / num_bins:.2f}"
        if their:
            tooltip = f"Usual: {their:.1%} at {span}"
            bars.append(_bar(index * step, step, their / top, "fill-usual", tooltip))
        if our:
            left, width = (index + 0.22) * step, 0.56 * step
            tooltip = f"This case: {our:.1%} at {span}"
            bars.append(_bar(left, width, our / top, "fill-blue", tooltip))
    legend = [
        LegendEntry("bar", "fill-blue", "this case"),
        LegendEntry("bar", "fill-usual", "usual in this hospital"),
    ]
    marks: tuple[Tick, ...] = ()
    if threshold is not None and 0 <= threshold <= 1:
        anchor = "end" if threshold > 0.75 else "start"
        marks = (Tick(_LEFT + threshold * _PLOT_WIDTH, f"{threshold:.2f}", anchor),)
        label = f"threshold {threshold:.2f}: above it an image looks new"
        legend.append(LegendEntry("mark", "mark-line", label))
    rows = tuple(
        (f"{i / num_bins:.2f}–{(i + 1) / num_bins:.2f}", f"{ours[i]:.1%}", f"{theirs[i]:.1%}")
        for i in range(num_bins)
        if ours[i] or theirs[i]
    )
    return Chart(
        alt=f"Entropy of this case: mostly {_largest_bin(ours)}; "
        f"usual in this hospital: mostly {_largest_bin(theirs)}.",
        x_label="entropy: 0 sure, 1 a blind guess",
        y_label="share of images",
        x_ticks=tuple(
            Tick(_LEFT + share * _PLOT_WIDTH, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)
        ),
        y_ticks=y_ticks,
        table=Table(("Entropy", "This case", "Usual"), rows),
        bars=tuple(bars),
        marks=marks,
        legend=tuple(legend),
    )


def days_chart(counts: Sequence[tuple[str, int]]) -> Chart | None:
    """Draw the images that arrived on each day, also days without any; None without counts.

    Args:
        counts: (ISO date, number of images), in any order.
    """
    known = {date.fromisoformat(day[:10]): number for day, number in counts}
    if not known:
        return None
    first, last = min(known), max(known)
    span = (last - first).days + 1
    days = sorted(known)
    if span <= _MOST_DAYS:
        days = [first + timedelta(days=offset) for offset in range(span)]
    top, y_ticks = _axis(max(*known.values(), 1), whole=True)
    step = _PLOT_WIDTH / max(len(days), 7)
    bars = tuple(
        _bar(
            (i + 0.1) * step,
            0.8 * step,
            known[day] / top,
            "fill-blue",
            f"{_day(day)}: {known[day]}",
        )
        for i, day in enumerate(days)
        if known.get(day)
    )
    end = len(days) - 1
    places = sorted({0, end // 2, end}) if len(days) > 3 else range(len(days))
    anchors = {0: "start", end: "end"} if len(days) > 7 else {}
    busiest = max(known, key=lambda day: known[day])
    return Chart(
        alt=f"{sum(known.values())} images from {_day(first)} to {_day(last)}; "
        f"most on {_day(busiest)} ({known[busiest]}).",
        x_label="day of arrival",
        y_label="images",
        x_ticks=tuple(
            Tick(_LEFT + (place + 0.5) * step, _day(days[place]), anchors.get(place, "middle"))
            for place in places
        ),
        y_ticks=y_ticks,
        table=Table(
            ("Day", "Images"), tuple((day.isoformat(), str(known[day])) for day in sorted(known))
        ),
        bars=bars,
    )


def rounds_chart(
    series: Sequence[tuple[str, str, Sequence[float | None]]],
    y_label: str,
    num_rounds: int,
    percent: bool,
    x_label: str = "round",
) -> Chart | None:
    """Draw curves over rounds, counted from 1; None without any finite value.

    Args:
        series: (name, CSS class, value of each round; None or not finite if unknown).
        y_label: Label of the values.
        num_rounds: Planned rounds, which set the length of the axis.
        percent: Whether values are shares; the axis then goes from 0 to 1.
        x_label: Label of the rounds.
    """
    finite = [value for _, _, values in series for value in values if _is_finite(value)]
    if not finite:
        return None
    longest = max(len(values) for _, _, values in series)
    length = max(num_rounds, longest, 1)
    top, y_ticks = _axis(1.0, percent=True) if percent else _axis(max(*finite, 1e-09))
    step = _PLOT_WIDTH / max(length - 1, 1)

    def x(index: int) -> float:
        return _LEFT + (index * step if length > 1 else _PLOT_WIDTH / 2)

    def show(value: float | None) -> str:
        if value is None:
            return "–"
        return f"{value:.1%}" if percent else f"{value:.3f}"

    curves, ends = [], []
    for name, css_class, values in series:
        points = [
            (round(x(index), 1), _y(min(max(value / top, 0), 1)))
            for index, value in enumerate(values)
            if _is_finite(value)
        ]
        line = " ".join(f"{left},{down}" for left, down in points)
        curves.append(Curve(line, tuple(points[-1:]), css_class))
        last = next((value for value in reversed(values) if _is_finite(value)), None)
        ends.append(f"{name}: {show(last)} after {len(values)} of {length}")
    every = max(1, ceil(length / 6))
    # No tick is close to the first or the last, which are always there.
    inner = (n for n in range(every, length, every) if min(n - 1, length - n) >= 0.6 * every)
    rows = tuple(
        (str(i + 1), *(show(values[i]) if i < len(values) else "–" for _, _, values in series))
        for i in range(longest)
    )
    return Chart(
        alt="; ".join(ends) + ".",
        x_label=x_label,
        y_label=y_label,
        x_ticks=tuple(Tick(x(n - 1), str(n)) for n in sorted({1, length, *inner})),
        y_ticks=y_ticks,
        table=Table((x_label.capitalize(), *(name for name, _, _ in series)), rows),
        curves=tuple(curves),
        legend=tuple(LegendEntry("line", css_class, name) for name, css_class, _ in series)
        if len(series) > 1
        else (),
    )


def difference_bar(points: float, largest: float) -> DifferenceBar:
    """Return the bar of a difference; ``largest`` is the difference that fills one half."""
    half = DIFFERENCE_WIDTH / 2
    share = min(abs(points) / largest, 1) if largest > 0 else 0
    width = round(share * (half - 2), 1) if points else 0
    return DifferenceBar(
        round(half - width, 1) if points < 0 else half,
        max(width, _SHORTEST_BAR) if points else 0,
        "fill-vermilion" if points < 0 else "fill-green",
    )


def _bar(left: float, width: float, share: float, css_class: str, tooltip: str) -> Bar:
    height = max(share * _PLOT_HEIGHT, _SHORTEST_BAR)
    top = _TOP + _PLOT_HEIGHT - height
    return Bar(
        round(_LEFT + left, 1),
        round(top, 1),
        round(width, 1),
        round(height, 1),
        css_class,
        tooltip,
    )


def _y(share: float) -> float:
    """Return the vertical place of a value given as a share of the axis."""
    return round(_TOP + _PLOT_HEIGHT * (1 - share), 1)


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and isfinite(value)


def _shares(counts: Sequence[int], num_bins: int) -> list[float]:
    total = sum(counts) or 1
    return [number / total for number in counts] + [0.0] * (num_bins - len(counts))


def _largest_bin(shares: Sequence[float]) -> str:
    if not any(shares):
        return "unknown"
    best = max(range(len(shares)), key=lambda index: shares[index])
    return f"{best / len(shares):.2f} to {(best + 1) / len(shares):.2f}"


def _day(day: date) -> str:
    return f"{day.day} {day:%b}"


def _axis(
    largest: float, percent: bool = False, whole: bool = False
) -> tuple[float, tuple[Tick, ...]]:
    """Return a round number not below the largest value, and three to six ticks up to it."""
    rough = largest / 4
    power = 10.0 ** floor(log10(rough)) if rough > 0 else 1.0
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, ceil(step))
    num_steps = ceil(largest / step - 1e-9)
    top = step * num_steps
    values = [step * index for index in range(num_steps + 1)]
    texts = [f"{100 * value:.3g} %" if percent else f"{value:.6g}" for value in values]
    return top, tuple(
        Tick(_y(value / top), text) for value, text in zip(values, texts, strict=True)
    )
