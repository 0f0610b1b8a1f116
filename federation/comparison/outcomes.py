"""Outcomes: from finished run folders to the rows of a table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from federation.comparison.cells import COST, Run
from federation.comparison.published import Metric, PublishedRow
from federation.comparison.statistics import PairedTest, Spread, holm, paired_test, spread
from federation.comparison.suite import Suite, SuiteCell, SuiteExperiment
from federation.experiment import metrics
from federation.experiment.run_folder import RunFolder

COSTS = ("images_trained", "seconds", "megabytes_up", "megabytes_down", "peak_memory_megabytes")


@dataclass(frozen=True)
class Outcome:
    """What one finished run measured.

    Args:
        seed: Of the run.
        by_task: After each task, on all classes seen so far, by metric [share].
        forgetting: After the last task [share]; none with one task.
        noticed: Share of pairs of twin and later task whose new classes the twin noticed, at once
            or later in the task; none without any.
        costs: Of ``COSTS``; what was not measured is left out.
        code_versions: Commits that it ran with, in order; several where it was resumed.
        by_todays_code: Whether all of it was trained by the code that this program has now.
        environment: Machine that it ran on.
        path: Its run folder.
        answer: How images were named, where it was not by the head.
    """

    seed: int
    by_task: Mapping[Metric, tuple[float, ...]]
    forgetting: float | None
    noticed: float | None
    costs: Mapping[str, float]
    code_versions: tuple[str, ...]
    by_todays_code: bool
    environment: Mapping[str, Any]
    path: Path
    answer: str = ""

    def average(self, metric: Metric) -> float:
        """Return the mean over tasks."""
        return metrics.average_accuracy(self.by_task[metric])


@dataclass(frozen=True)
class Row:
    """One method on one experiment, over seeds.

    Args:
        cell: The method.
        outcomes: Its finished runs, by seed.
        by_task: After each task [share].
        average: Over tasks [share]; none where nothing ran.
        last: After the last task [share].
        forgetting: After the last task [share].
        noticed: Share of task boundaries that twins noticed: a method that makes a model which
            notices less learns less.
        against: Average against the reference's, over the seeds that both have; none for the
            reference.
        corrected: Its p value, corrected for the number of rows.
        costs: Of ``COSTS``.
        exemplars: Most exemplars per twin that the method trains on.
        published: What the paper printed.
        failure: Why a run of it failed.
        answer: How images were named, where it was not by the head.
    """

    cell: SuiteCell
    outcomes: tuple[Outcome, ...]
    by_task: tuple[Spread, ...]
    average: Spread | None
    last: Spread | None
    forgetting: Spread | None
    noticed: Spread | None
    against: PairedTest | None
    corrected: float | None
    costs: Mapping[str, Spread]
    exemplars: int
    published: PublishedRow | None
    failure: str | None = None
    answer: str = ""

    @property
    def label(self) -> str:
        """For people: the cell's, and how images were named where it was not by the head."""
        return f"{self.cell.label} ({self.answer})" if self.answer else self.cell.label


@dataclass(frozen=True)
class Block:
    """One experiment: a row per method.

    Args:
        experiment: What the rows share.
        classes: Number of classes after each task.
        rows: In the suite's order.
    """

    experiment: SuiteExperiment
    classes: tuple[int, ...]
    rows: tuple[Row, ...]

    def row(self, label: str) -> Row:
        """Return a method's row."""
        return next(row for row in self.rows if row.label == label)


def read_outcome(run: Run) -> Outcome | None:
    """Return what a run measured; nothing where it has not finished."""
    if not run.is_finished:
        return None
    folder = RunFolder(run.path)
    results = folder.read_json("results.json")
    tasks = [record for record in folder.read_records() if record["kind"] == "task"]
    # Results of older versions name the last commit alone.
    made_by = results.get("made_by") or [{"code_version": str(results["code_version"])}]
    measured = {**results, **(folder.read_json(COST) if (run.path / COST).is_file() else {})}
    return Outcome(
        seed=run.seed,
        by_task={
            "accuracy": tuple(each["accuracy"] for each in tasks),
            "macro_f1": tuple(each["macro_f1"] for each in tasks),
        },
        forgetting=results["forgetting"],
        noticed=_noticed(results["detection"]),
        costs={name: float(measured[name]) for name in COSTS if measured.get(name) is not None},
        code_versions=tuple(each["code_version"] for each in made_by),
        by_todays_code=run.is_by_todays_code,
        environment=folder.read_json("environment.json"),
        path=run.path,
    )


def read_second_outcome(run: Run) -> Outcome | None:
    """Return what a run measured by its method's other way to classify.

    Nothing where it has none.
    """
    outcome = read_outcome(run)
    second = (
        None
        if outcome is None
        else RunFolder(run.path).read_json("results.json").get("second_answer")
    )
    if outcome is None or second is None:
        return None
    by_task: dict[Metric, tuple[float, ...]] = {
        "accuracy": tuple(second["accuracy_by_task"]),
        "macro_f1": tuple(second["macro_f1_by_task"]),
    }
    return replace(outcome, by_task=by_task, forgetting=second["forgetting"], answer=second["name"])


def _noticed(detection: Mapping[str, Any]) -> float | None:
    boundaries = int(detection["boundaries"])
    return (
        (int(detection["noticed_at_once"]) + int(detection["noticed_late"])) / boundaries
        if boundaries
        else None
    )


def collect(suite: Suite, runs: Sequence[Run]) -> tuple[Block, ...]:
    """Return the comparison as far as it has been run.

    Args:
        suite: What is compared.
        runs: All of its runs, finished or not.
    """
    blocks = []
    for experiment in suite.config.experiments:
        rows = [row for cell in suite.config.cells for row in _rows(suite, experiment, cell, runs)]
        reference = next(row for row in rows if row.label == suite.config.reference)
        tested = [
            row
            if row is reference
            else replace(row, against=compare(row, reference, suite.config.metric))
            for row in rows
        ]
        corrected = holm(
            [None if row.against is None else row.against.probability for row in tested]
        )
        scenario = suite.configs[experiment.title, reference.cell.label].scenario
        classes = tuple(
            scenario.classes_per_task * (task + 1) for task in range(scenario.num_tasks)
        )
        final = (
            replace(row, corrected=value) for row, value in zip(tested, corrected, strict=True)
        )
        blocks.append(Block(experiment, classes, tuple(final)))
    return tuple(blocks)


def compare(one: Row, other: Row, metric: Metric) -> PairedTest | None:
    """Test one method's average against another's over the seeds that both have."""
    pairs = [
        (mine, its) for mine in one.outcomes for its in other.outcomes if mine.seed == its.seed
    ]
    return paired_test(
        [mine.average(metric) for mine, _ in pairs], [its.average(metric) for _, its in pairs]
    )


def _belongs(run: Run, experiment: SuiteExperiment, cell: SuiteCell) -> bool:
    return run.experiment == experiment.title and run.label == cell.label


def _rows(
    suite: Suite, experiment: SuiteExperiment, cell: SuiteCell, runs: Sequence[Run]
) -> list[Row]:
    """Return a cell's row, and one more where its method classifies in two ways."""
    own = [run for run in runs if _belongs(run, experiment, cell)]
    failure = next((run.failure for run in own if run.failure), None)
    first = [outcome for outcome in map(read_outcome, own) if outcome is not None]
    second = [outcome for outcome in map(read_second_outcome, own) if outcome is not None]
    more = [_row(suite, experiment, cell, second, failure)] if second else []
    return [_row(suite, experiment, cell, first, failure), *more]


def _row(
    suite: Suite,
    experiment: SuiteExperiment,
    cell: SuiteCell,
    outcomes: Sequence[Outcome],
    failure: str | None,
) -> Row:
    metric = suite.config.metric
    config = suite.configs[experiment.title, cell.label]
    answer = outcomes[0].answer if outcomes else ""
    tasks = zip(*(outcome.by_task[metric] for outcome in outcomes), strict=True)
    costs = {
        name: spread([outcome.costs[name] for outcome in outcomes if name in outcome.costs])
        for name in COSTS
    }
    return Row(
        cell=cell,
        outcomes=tuple(outcomes),
        by_task=tuple(each for each in map(spread, tasks) if each is not None),
        average=spread([outcome.average(metric) for outcome in outcomes]),
        last=spread([outcome.by_task[metric][-1] for outcome in outcomes]),
        forgetting=spread(
            [outcome.forgetting for outcome in outcomes if outcome.forgetting is not None]
        ),
        noticed=spread([outcome.noticed for outcome in outcomes if outcome.noticed is not None]),
        against=None,
        corrected=None,
        costs={name: value for name, value in costs.items() if value is not None},
        exemplars=config.twin.memory_capacity if config.method.replays else 0,
        published=None if answer else suite.config.published(experiment, cell),
        failure=failure,
        answer=answer,
    )


def as_plain(suite: Suite, blocks: Sequence[Block], seeds: Sequence[int]) -> dict[str, Any]:
    """Return every cell of a comparison as plain data."""
    return {
        "suite": suite.name,
        "title": suite.config.title,
        "metric": suite.config.metric,
        "reference": suite.config.reference,
        "fills": suite.config.fills,
        "shrinkage": suite.config.shrinkage,
        "changes": list(suite.changes),
        "seeds": list(seeds),
        "cells": [_plain_row(block, row, seeds, suite) for block in blocks for row in block.rows],
    }


def _plain_row(block: Block, row: Row, seeds: Sequence[int], suite: Suite) -> dict[str, Any]:
    config = suite.configs[block.experiment.title, row.cell.label]
    return {
        "experiment": block.experiment.title,
        "label": row.label,
        "config_digest": config.digest(),
        "method": config.as_plain()["method"],
        "budget_differs": row.cell.budget_differs,
        "exemplars_per_twin": row.exemplars,
        "failure": row.failure,
        "not_run_seeds": [
            seed for seed in seeds if seed not in {outcome.seed for outcome in row.outcomes}
        ],
        "runs": [
            {
                "seed": outcome.seed,
                "folder": "/".join(
                    outcome.path.parts[-3:]
                ),  # beside the comparison, wherever both are
                "code_versions": list(outcome.code_versions),
                "by_todays_code": outcome.by_todays_code,
                "accuracy_by_task": list(outcome.by_task["accuracy"]),
                "macro_f1_by_task": list(outcome.by_task["macro_f1"]),
                "forgetting": outcome.forgetting,
                "boundaries_noticed": outcome.noticed,
                **outcome.costs,
            }
            for outcome in row.outcomes
        ],
        "classes": list(block.classes),
        "by_task": [vars(each) for each in row.by_task],
        "average": None if row.average is None else vars(row.average),
        "last": None if row.last is None else vars(row.last),
        "forgetting": None if row.forgetting is None else vars(row.forgetting),
        "against_reference": None
        if row.against is None
        else {**vars(row.against), "corrected": row.corrected},
        "boundaries_noticed": None if row.noticed is None else vars(row.noticed),
        "costs": {name: vars(each) for name, each in row.costs.items()},
        "published_percent": None
        if row.published is None
        else json.loads(json.dumps(vars(row.published))),
    }
