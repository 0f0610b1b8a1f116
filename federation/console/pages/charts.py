"""Geometry of the pages' small figures: bars, curves and difference bars as plain numbers, which ``parts.html`` draws as SVG.

The page's policy forbids inline styles and scripts, so a figure is SVG elements with attributes, coloured by classes of
the style sheet; it follows the reader's theme. Each figure carries its numbers as a table for readers who cannot see it.
Pure; knows no case and no page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import ceil, floor, isfinite, log10

WIDTH, HEIGHT = (
    420,
    220,
)  # units of the view box; a figure is about as wide on a phone as in a column
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 12, 40  # margins around the plot
_PLOT_WIDTH, _PLOT_HEIGHT = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
_MOST_DAYS = 120  # beyond, days without an image are not drawn one by one
_SHORT_BAR = 1.5  # units; what is not nothing stays visible
DELTA_WIDTH = 120


@dataclass(frozen=True)
class Box:
    """One bar, with the words that are shown when the pointer rests on it."""

    left: float
    top: float
    width: float
    height: float
    look: str
    words: str


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what stands there."""

    at: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True)
class Curve:
    """A line through points; single points that no line reaches are drawn as dots."""

    points: str
    dots: tuple[tuple[float, float], ...]
    look: str


@dataclass(frozen=True)
class Key:
    """An entry of the legend: "bar", "line" or "mark", its look and its words."""

    kind: str
    look: str
    words: str


@dataclass(frozen=True)
class Table:
    """The figure's numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A figure ready to be drawn.

    Args:
        alt: What a reader who cannot see it is told.
        x_words: What stands below the horizontal axis.
        y_words: What stands above the vertical axis.
    """

    alt: str
    x_words: str
    y_words: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    boxes: tuple[Box, ...] = ()
    curves: tuple[Curve, ...] = ()
    marks: tuple[Tick, ...] = ()
    keys: tuple[Key, ...] = ()
    table: Table = Table((), ())
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


@dataclass(frozen=True)
class Delta:
    """A bar to the left (loss) or to the right (gain) of a middle line."""

    left: float
    width: float
    look: str


def entropy_chart(case: Sequence[int], usual: Sequence[int], threshold: float | None) -> Chart:
    """The entropies of a case beside those that are usual in its hospital, as shares of either.

    Args:
        case: Images in each of equal bins from 0 to 1.
        usual: The hospital's usual images in the same bins.
        threshold: Entropy above which an image looks new; none if another score than entropy decided.
    """
    ours, theirs = _shares(case), _shares(usual)
    bins = max(len(ours), len(theirs), 1)
    ours, theirs = ours + [0.0] * (bins - len(ours)), theirs + [0.0] * (bins - len(theirs))
    top, y_ticks = _scale(max([*ours, *theirs, 0.05]), percent=True)
    step = _PLOT_WIDTH / bins
    boxes = []
    for index in range(bins):
        span = f"{index / bins:.2f} to {(index + 1) / bins:.2f}"
        if theirs[index]:
            boxes.append(
                _bar(
                    index * step,
                    step,
                    theirs[index] / top,
                    "fill-usual",
                    f"Usual: {theirs[index]:.1%} at {span}",
                )
            )
        if ours[index]:
            boxes.append(
                _bar(
                    (index + 0.22) * step,
                    0.56 * step,
                    ours[index] / top,
                    "fill-blue",
                    f"This case: {ours[index]:.1%} at {span}",
                )
            )
    keys = [
        Key("bar", "fill-blue", "this case"),
        Key("bar", "fill-usual", "usual in this hospital"),
    ]
    marks: tuple[Tick, ...] = ()
    if threshold is not None and 0 <= threshold <= 1:
        near_end = threshold > 0.75
        marks = (
            Tick(
                _LEFT + threshold * _PLOT_WIDTH, f"{threshold:.2f}", "end" if near_end else "start"
            ),
        )
        keys.append(
            Key("mark", "mark-line", f"threshold {threshold:.2f}: above it an image looks new")
        )
    rows = tuple(
        (f"{i / bins:.2f}–{(i + 1) / bins:.2f}", f"{ours[i]:.1%}", f"{theirs[i]:.1%}")
        for i in range(bins)
        if ours[i] or theirs[i]
    )
    return Chart(
        alt=f"Entropy of this case: mostly {_where(ours)}; usual in this hospital: mostly {_where(theirs)}.",
        x_words="entropy: 0 sure, 1 a blind guess",
        y_words="share of images",
        x_ticks=tuple(
            Tick(_LEFT + share * _PLOT_WIDTH, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)
        ),
        y_ticks=y_ticks,
        boxes=tuple(boxes),
        marks=marks,
        keys=tuple(keys),
        table=Table(("Entropy", "This case", "Usual"), rows),
    )


def days_chart(counts: Sequence[tuple[str, int]]) -> Chart | None:
    """Images that arrived on each day, days without any included; nothing to draw gives none.

    Args:
        counts: (ISO date, images), in any order.
    """
    known = {date.fromisoformat(day[:10]): number for day, number in counts}
    if not known:
        return None
    first, last = min(known), max(known)
    span = (last - first).days + 1
    days = (
        [first + timedelta(days=offset) for offset in range(span)]
        if span <= _MOST_DAYS
        else sorted(known)
    )
    top, y_ticks = _scale(max(*known.values(), 1), whole=True)
    step = _PLOT_WIDTH / max(len(days), 7)
    boxes = tuple(
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
    places = sorted(
        {0, (len(days) - 1) // 2, len(days) - 1} if len(days) > 2 else set(range(len(days)))
    )
    ticks = tuple(
        Tick(
            _LEFT + (place + 0.5) * step,
            _day(days[place]),
            "start"
            if place == 0 and len(days) > 7
            else "end"
            if place and place == len(days) - 1 and len(days) > 7
            else "middle",
        )
        for place in (places if len(days) > 3 else range(len(days)))
    )
    busiest = max(known, key=lambda day: known[day])
    return Chart(
        alt=f"{sum(known.values())} images from {_day(first)} to {_day(last)}; most on {_day(busiest)} ({known[busiest]}).",
        x_words="day of arrival",
        y_words="images",
        x_ticks=ticks,
        y_ticks=y_ticks,
        boxes=boxes,
        table=Table(
            ("Day", "Images"), tuple((day.isoformat(), str(known[day])) for day in sorted(known))
        ),
    )


def rounds_chart(
    series: Sequence[tuple[str, str, Sequence[float | None]]],
    y_words: str,
    num_rounds: int,
    percent: bool,
    x_words: str = "round",
) -> Chart | None:
    """Curves over rounds, counted from 1; nothing to draw gives none.

    Args:
        series: (name, look, value of each round; none or not finite where unknown).
        y_words: What the values are.
        num_rounds: Rounds planned, so that the curve grows into its figure.
        percent: Whether values are shares; the axis then goes from 0 to 1.
        x_words: What is counted.
    """
    finite = [
        value
        for _, _, values in series
        for value in values
        if value is not None and isfinite(value)
    ]
    if not finite:
        return None
    longest = max(num_rounds, *(len(values) for _, _, values in series), 1)
    top, y_ticks = _scale(1.0, percent=True) if percent else _scale(max(*finite, 1e-09))
    step = _PLOT_WIDTH / max(longest - 1, 1)

    def place(index: int, value: float) -> tuple[float, float]:
        return round(_LEFT + (index * step if longest > 1 else _PLOT_WIDTH / 2), 1), _down(
            min(max(value / top, 0), 1)
        )

    curves = []
    for _, look, values in series:
        points = [
            place(index, value)
            for index, value in enumerate(values)
            if value is not None and isfinite(value)
        ]
        curves.append(Curve(" ".join(f"{x},{y}" for x, y in points), tuple(points[-1:]), look))
    every = max(1, ceil(longest / 6))
    # None close to the first or the last, which are always there.
    numbers = sorted(
        {
            1,
            longest,
            *(n for n in range(every, longest, every) if min(n - 1, longest - n) >= 0.6 * every),
        }
    )

    def show(value: float | None) -> str:
        if value is None:
            return "–"
        return f"{value:.1%}" if percent else f"{value:.3f}"

    rows = tuple(
        (str(i + 1), *(show(values[i]) if i < len(values) else "–" for _, _, values in series))
        for i in range(longest)
    )
    return Chart(
        alt="; ".join(
            f"{name}: {show(_last(values))} after {len(values)} of {longest}"
            for name, _, values in series
        )
        + ".",
        x_words=x_words,
        y_words=y_words,
        x_ticks=tuple(
            Tick(_LEFT + ((n - 1) * step if longest > 1 else _PLOT_WIDTH / 2), str(n))
            for n in numbers
        ),
        y_ticks=y_ticks,
        curves=tuple(curves),
        keys=tuple(Key("line", look, name) for name, look, _ in series) if len(series) > 1 else (),
        table=Table(
            (x_words.capitalize(), *(name for name, _, _ in series)),
            rows[: max(len(values) for _, _, values in series)],
        ),
    )


def delta(points: float, largest: float) -> Delta:
    """A difference bar; ``largest`` is the difference that fills one half."""
    half = DELTA_WIDTH / 2
    share = min(abs(points) / largest, 1) if largest > 0 else 0
    width = round(share * (half - 2), 1) if points else 0
    return Delta(
        round(half - width, 1) if points < 0 else half,
        max(width, _SHORT_BAR) if points else 0,
        "fill-vermilion" if points < 0 else "fill-green",
    )


def _bar(left: float, width: float, share: float, look: str, words: str) -> Box:
    height = max(share * _PLOT_HEIGHT, _SHORT_BAR)
    return Box(
        round(_LEFT + left, 1),
        round(_TOP + _PLOT_HEIGHT - height, 1),
        round(width, 1),
        round(height, 1),
        look,
        words,
    )


def _down(share: float) -> float:
    return round(_TOP + _PLOT_HEIGHT * (1 - share), 1)


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts)
    return [number / total for number in counts] if total else [0.0 for _ in counts]


def _where(shares: Sequence[float]) -> str:
    if not any(shares):
        return "unknown"
    best = max(range(len(shares)), key=lambda index: shares[index])
    return f"{best / len(shares):.2f} to {(best + 1) / len(shares):.2f}"


def _last(values: Sequence[float | None]) -> float | None:
    return next(
        (value for value in reversed(values) if value is not None and isfinite(value)), None
    )


def _day(day: date) -> str:
    return f"{day.day} {day:%b}"


def _scale(
    largest: float, percent: bool = False, whole: bool = False
) -> tuple[float, tuple[Tick, ...]]:
    """A round number not below the largest value, and three to six ticks up to it."""
    rough = largest / 4
    power = 10.0 ** floor(log10(rough)) if rough > 0 else 1.0
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, ceil(step))
    steps = ceil(largest / step - 1e-9)
    values = [step * index for index in range(steps + 1)]
    words = [f"{100 * value:.3g} %" if percent else f"{value:.6g}" for value in values]
    return step * steps, tuple(
        Tick(_down(value / (step * steps)), text) for value, text in zip(values, words, strict=True)
    )
