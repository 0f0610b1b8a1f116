from hypothesis import given
from hypothesis import strategies as st

from federation.console.pages.charts import (
    HEIGHT,
    WIDTH,
    Chart,
    days_chart,
    difference_bar,
    entropy_chart,
    rounds_chart,
)

COUNTS = st.lists(st.integers(0, 10_000), min_size=0, max_size=20)


def stays_inside(chart: Chart) -> None:
    for bar in chart.bars:
        assert bar.left >= chart.left - 0.1 and bar.left + bar.width <= chart.right + 0.1
        assert bar.top >= chart.top - 0.1 and bar.top + bar.height <= chart.bottom + 0.2
    for curve in chart.curves:
        for point in curve.points.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT
    assert all(chart.top - 0.1 <= tick.at <= chart.bottom + 0.1 for tick in chart.y_ticks)
    assert 2 <= len(chart.y_ticks) <= 7


@given(COUNTS, COUNTS, st.none() | st.floats(-1, 2))
def test_entropies_stay_inside_their_figure(
    case: list[int], usual: list[int], threshold: float | None
) -> None:
    stays_inside(entropy_chart(case, usual, threshold))


def test_entropies_are_drawn_as_shares_of_each_group() -> None:
    chart = entropy_chart((0, 5), (500, 500), 0.6)
    assert chart.table.rows == (("0.00–0.50", "0.0%", "50.0%"), ("0.50–1.00", "100.0%", "50.0%"))
    assert [tick.text for tick in chart.marks] == ["0.60"]


@given(st.lists(st.tuples(st.dates().map(str), st.integers(0, 1000)), max_size=30))
def test_days_stay_inside_their_figure(counts: list[tuple[str, int]]) -> None:
    chart = days_chart(counts)
    assert (chart is None) == (not counts)
    if chart is not None:
        stays_inside(chart)


def test_days_without_an_image_leave_a_gap() -> None:
    chart = days_chart([("2026-11-03", 2), ("2026-11-01", 4)])
    assert chart is not None and len(chart.x_ticks) == 3 and len(chart.bars) == 2
    assert chart.table.rows == (("2026-11-01", "4"), ("2026-11-03", "2"))


@given(st.lists(st.none() | st.floats(0, 1e6), max_size=40), st.integers(0, 60), st.booleans())
def test_curves_stay_inside_their_figure(
    values: list[float | None], planned: int, percent: bool
) -> None:
    chart = rounds_chart([("loss", "line-blue", values)], "loss", planned, percent)
    if chart is not None:
        stays_inside(chart)


def test_missing_and_infinite_values_are_left_out() -> None:
    assert (
        rounds_chart([("loss", "line-blue", [float("nan"), None])], "loss", 3, percent=False)
        is None
    )


def test_a_loss_points_left_and_a_gain_right() -> None:
    left, right, none = difference_bar(-2, 4), difference_bar(9, 4), difference_bar(0, 4)
    assert (left.left, left.width, left.css_class) == (31, 29, "fill-vermilion")
    assert (right.left, right.width, right.css_class) == (60, 58, "fill-green")
    assert none.width == 0
