import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import pytest

from federation.comparison.cells import plan_runs
from federation.comparison.figures import classes_figure
from federation.comparison.outcomes import COSTS, Block, Outcome, collect
from federation.comparison.runner import run_missing
from federation.comparison.statistics import paired_test, spread
from federation.comparison.suite import find_suite, load_suite
from federation.comparison.summary import write_comparison
from federation.comparison.tables import (
    NOT_RUN,
    budget_markdown,
    percent,
    probability,
    results_csv,
    results_latex,
    results_markdown,
)

COMMAND = ["fedka", "compare", "tiny.yaml", "--seeds", "1,2"]


@pytest.fixture(scope="module")
def written(compared: tuple[Any, ...]) -> Path:
    suite, _, blocks, out = compared
    return write_comparison(suite, blocks, (1, 2), out, COMMAND).parent


def made_up(name: str, values: Callable[..., Any]) -> tuple[Any, ...]:
    """A suite whose cells have these accuracies by task for each seed, without any run."""
    suite = load_suite(find_suite(name))
    blocks = []
    for block in collect(suite, plan_runs(suite, (1, 2, 3), Path("nowhere"))):
        rows = []
        for place, row in enumerate(block.rows):
            outcomes = tuple(
                Outcome(
                    seed,
                    {"accuracy": tasks, "macro_f1": tasks},
                    0.1,
                    1.0,
                    dict.fromkeys(COSTS, 1e6),
                    ("c0ffee",),
                    True,
                    {},
                    Path("nowhere"),
                )
                for seed, tasks in values(place, len(block.classes))
            )
            by_task = tuple(
                spread([outcome.by_task["accuracy"][task] for outcome in outcomes])
                for task in range(len(block.classes))
            )
            averages = [outcome.average("accuracy") for outcome in outcomes]
            rows.append(
                replace(
                    row,
                    outcomes=outcomes,
                    by_task=cast(Any, by_task),
                    average=spread(averages),
                    last=by_task[-1],
                )
            )
        blocks.append(Block(block.experiment, block.classes, tuple(rows)))
    return suite, blocks


def falling(place: int, tasks: int) -> list[tuple[Any, ...]]:
    return [
        (seed, tuple(0.95 - 0.02 * place - 0.04 * task + 0.004 * seed for task in range(tasks)))
        for seed in (1, 2, 3)
    ]


def test_rows_are_mean_and_test_of_what_the_run_folders_hold(compared: tuple[Any, ...]) -> None:
    _suite, runs, (block,), _ = compared
    accuracies = {
        label: [
            json.loads((run.path / "results.json").read_text())["average_accuracy"]
            for run in runs
            if run.label == label
        ]
        for label in ("finetune", "FedKA")
    }
    row = block.row("finetune")
    assert row.average == spread(accuracies["finetune"]) and row.average.count == 2
    assert (
        row.against == paired_test(accuracies["finetune"], accuracies["FedKA"])
        and row.corrected == row.against.probability
    )
    assert block.row("FedKA").against is None and block.classes == (2, 4)
    assert (row.exemplars, block.row("FedKA").exemplars) == (0, 60)


def test_the_markdown_table_has_every_cell_and_says_what_was_not_run(
    compared: tuple[Any, ...],
) -> None:
    suite, _, (block,), _ = compared
    lines = results_markdown(suite, [block]).splitlines()
    header = next(line for line in lines if line.startswith("| method"))
    assert all(line.count("|") == header.count("|") for line in lines if line.startswith("|"))
    joint = next(line for line in lines if line.startswith("| joint"))
    assert joint.count(NOT_RUN) == 3 and f" {percent(block.row('finetune').average)} " in "\n".join(
        lines
    )


def test_the_csv_has_one_line_per_method_and_nothing_where_nothing_was_run(
    compared: tuple[Any, ...],
) -> None:
    suite, _, blocks, _ = compared
    rows = list(csv.DictReader(io.StringIO(results_csv(suite, blocks))))
    assert [(row["method"], row["status"]) for row in rows] == [
        ("finetune", "run"),
        ("FedKA", "run"),
        ("joint", NOT_RUN),
    ]
    assert float(rows[0]["average"]) == pytest.approx(
        blocks[0].row("finetune").average.mean, abs=1e-6
    )
    assert rows[2]["average"] == "" and rows[1]["p"] == "" and float(rows[0]["images_trained"]) > 0


def test_published_rows_stand_beside_ours() -> None:
    suite, blocks = made_up("table4", falling)
    text = results_markdown(suite, blocks)
    assert "| *published* | *1* | *98.84* | *93.77* | *97.14* | *96.58* |" in text
    assert text.count("*published*") == 5
    ten, blocks = made_up("table10", falling)
    assert results_markdown(ten, blocks).count("*published*") == 8
    two, blocks = made_up("table2", falling)
    assert "| *published* | *1* | - |" in results_markdown(
        two, blocks
    )  # only its average is printed


def test_the_latex_table_is_balanced_and_escaped() -> None:
    suite, blocks = made_up("table11", falling)
    text = results_latex(suite, blocks)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count(" & ") for line in body}) == 1 and len(body) == 1 + 2 * 5
    assert not re.search(r"(?<!\\)[%_#](?!.*pm)", "\n".join(body)) and r"$\pm$" in body[1]


def test_a_comparison_that_was_never_run_is_written_as_such(tmp_path: Path) -> None:
    suite = load_suite(find_suite("table4"))
    blocks = collect(suite, plan_runs(suite, (1, 2, 3), tmp_path))
    page = write_comparison(suite, blocks, (1, 2, 3), tmp_path, COMMAND)
    text = page.read_text()
    assert "0 of 15 runs are finished; the others are not run." in text and "96.58" in text
    assert not list(page.parent.glob("*.png")) and "nothing has been run" in text


def test_the_summary_says_terms_shrinkage_order_cost_and_how_it_was_made(written: Path) -> None:
    text = (written / "summary.md").read_text()
    for words in (
        "4 of 6 runs are finished; the others are not run.",
        "**Smaller than the paper:** made images, a LeNet",
        "With n = 2 the test is weak",
        "finetune < FedKA < joint:",
        "- FedKA < joint: not run",
        "60 exemplars per twin",
        "joint has another budget: the upper bound",
        "images trained",
        "`fedka compare tiny.yaml --seeds 1,2`",
        "![Two methods",
    ):
        assert words in text
    assert re.search(r"- finetune < FedKA: (holds|does not hold), [+-]\d+\.\d\d \[", text)


def test_everything_is_in_one_json_and_no_path_of_this_machine(
    written: Path, compared: tuple[Any, ...]
) -> None:
    plain = json.loads((written / "comparison.json").read_text())
    assert [cell["label"] for cell in plain["cells"]] == ["finetune", "FedKA", "joint"]
    assert (
        plain["cells"][2]["not_run_seeds"] == [1, 2] and plain["cells"][0]["runs"][0]["seed"] == 1
    )
    assert str(compared[3]) not in (written / "comparison.json").read_text()
    assert plain["made_with"]["packages"]["torch"]


def test_files_are_whole_and_nothing_else_lies_there(written: Path) -> None:
    names = {path.name for path in written.iterdir()} - {"mlflow.json"}
    tables = {"table.md", "budget.md", "table.csv", "table.tex"}
    assert names == {
        "summary.md",
        "comparison.json",
        *tables,
        "accuracy_by_classes.svg",
        "accuracy_by_classes.png",
    }


@pytest.mark.parametrize("name", ["organa_cpu", "table3"])
def test_the_figure_names_every_method_and_counts_classes(name: str) -> None:
    suite, blocks = made_up(name, falling)
    tree = ElementTree.fromstring(cast(Any, classes_figure(suite, blocks[0], "svg")))
    text = " ".join(node.text or "" for node in tree.iter() if node.tag.endswith("text"))
    assert all(cell.label in text for cell in suite.config.cells)
    assert "number of classes" in text and str(blocks[0].classes[-1]) in text and "n = 3" in text
    assert cast(Any, classes_figure(suite, blocks[0], "png", 80)).startswith(b"\x89PNG")


def test_the_same_figure_is_the_same_bytes() -> None:
    suite, blocks = made_up("table4", falling)
    assert classes_figure(suite, blocks[0], "svg") == classes_figure(suite, blocks[0], "svg")


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.0004, "< 0.001"), (0.25, "0.250"), (1.0, "1.000")]
)
def test_p_values_are_written_as_usual(value: float | None, text: str) -> None:
    assert probability(value) == text


def test_a_method_that_answers_in_two_ways_has_a_row_for_each_and_one_budget(
    write_suite: Callable[..., Any], tmp_path: Path
) -> None:
    cells = [{"label": "iCaRL", "method": {"name": "icarl", "head_loss": "ce", "least_images": 1}}]
    suite = load_suite(write_suite(cells=cells, reference="iCaRL", expected_order=[], seeds=[1]))
    runs = plan_runs(suite, [1], tmp_path / "out")
    assert run_missing(runs) == 0
    (block,) = collect(suite, runs)
    head, means = block.rows
    results = json.loads((runs[0].path / "results.json").read_text())
    assert (head.label, means.label) == ("iCaRL", "iCaRL (nearest mean)")
    assert means.last is not None
    assert head.last is not None
    assert (
        means.last.mean
        == results["second_answer"]["last_accuracy"]
        != results["last_accuracy"]
        == head.last.mean
    )
    assert (
        results_markdown(suite, (block,)).count("\n| ") == 4
        and budget_markdown(suite, (block,)).count("iCaRL") == 1
    )
    page = write_comparison(suite, (block,), (1,), tmp_path / "out", COMMAND)
    assert "1 of 1 runs are finished." in page.read_text()
