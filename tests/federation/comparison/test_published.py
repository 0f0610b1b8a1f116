import pytest

from federation.comparison.published import PUBLISHED, PublishedRow
from federation.experiment import metrics

ROWS = [
    (key, block, label, row)
    for key, table in PUBLISHED.items()
    for block, rows in table.blocks.items()
    for label, row in rows.items()
]
HALF_OF_THE_LAST_DIGIT = 0.005 + 1e-9


@pytest.mark.parametrize(("key", "block", "label", "row"), ROWS, ids=lambda value: str(value)[:24])
def test_every_printed_average_is_made_again_by_our_own_metric(
    key: str, block: str, label: str, row: PublishedRow
) -> None:
    if row.by_task:
        assert abs(metrics.average_accuracy(row.by_task) - row.average) <= HALF_OF_THE_LAST_DIGIT


def test_the_averages_of_table_10_at_heterogeneity_0_6_are_69_096_and_70_946() -> None:
    rows = PUBLISHED["table10"].blocks["0.6"]
    assert metrics.average_accuracy(rows["LGA"].by_task) == pytest.approx(69.096, abs=1e-9)
    assert metrics.average_accuracy(rows["FedKA"].by_task) == pytest.approx(70.946, abs=1e-9)


@pytest.mark.parametrize(("key", "block", "label", "row"), ROWS, ids=lambda value: str(value)[:24])
def test_every_printed_improvement_is_fedka_less_the_row_but_for_the_last_digit(
    key: str, block: str, label: str, row: PublishedRow
) -> None:
    if row.improvement is None:
        assert label == "FedKA"
    else:
        fedka = PUBLISHED[key].blocks[block]["FedKA"]
        assert abs(fedka.average - row.average - row.improvement) <= 0.01 + 1e-9


def test_tables_2_to_11_are_all_here_and_agree_where_they_print_the_same_thing() -> None:
    assert list(PUBLISHED) == [f"table{number}" for number in range(2, 12)]
    ten, two, eleven = (
        PUBLISHED["table10"].blocks["0.6"],
        PUBLISHED["table2"].blocks[""],
        PUBLISHED["table11"].blocks[""],
    )
    assert ten["LGA"].average == two["LGA"].average
    assert ten["FedKA"].average == two["FedKA"].average == eleven["FedKA"].average
    assert {
        table.metric for key, table in PUBLISHED.items() if key in ("table7", "table8", "table9")
    } == {"macro_f1"}
    assert all(
        len(rows) == (2 if key == "table10" else 5)
        for key, table in PUBLISHED.items()
        for rows in table.blocks.values()
    )
