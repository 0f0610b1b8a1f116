"""Suites: which methods are compared on which experiments, under equal terms.

A suite is one small YAML file. Its experiments are folders as ``fedka run`` takes them, its cells
are methods; each cell is the experiment with the cell's method and changes. Whatever cannot be run
or is not fair stops here, before the first round.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic.dataclasses
from pydantic import ConfigDict

from federation.comparison.budget import check_equal_budget
from federation.comparison.published import PUBLISHED, Metric, PublishedRow
from federation.experiment.config import ExperimentConfig, load_experiment
from federation.experiment.config_file import ConfigError, build, read_yaml, suggestion

_STRICT = ConfigDict(extra="forbid")
PRESETS = Path(__file__).resolve().parents[2] / "hospital_configs" / "suites"
Table = Literal[
    "table2",
    "table3",
    "table4",
    "table5",
    "table6",
    "table7",
    "table8",
    "table9",
    "table10",
    "table11",
]


class SuiteError(ValueError):
    """A comparison that cannot be made or would not be fair: what, got, allowed, what to do."""


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class SuiteExperiment:
    """What all cells share, one column block of the table.

    Args:
        folder: Holds ``experiment.yaml``; relative to the suite's file.
        name: Title of the block; none: the folder's name.
        changes: ``path.to.key=value`` settings, as after ``--set``.
        block: Block of the published table that it stands beside.
    """

    folder: str
    name: str = ""
    changes: tuple[str, ...] = ()
    block: str = ""

    @property
    def title(self) -> str:
        """Its name in tables."""
        return self.name or Path(self.folder).name


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class SuiteCell:
    """One method of the comparison, one row of the table.

    Args:
        label: Its name in tables.
        method: Name in ``METHODS``, or name and hyper-parameters.
        changes: ``path.to.key=value`` settings that belong to this method.
        published: Its row in the published table; none: the label, where the table has it.
        budget_differs: Why it may have another budget than the others (a bound, say); empty: it may
            not.
    """

    label: str
    method: str | dict[str, Any]
    changes: tuple[str, ...] = ()
    published: str | None = None
    budget_differs: str = ""

    def __post_init__(self) -> None:
        """Check the label."""
        if not self.label.strip() or not self.label.isprintable():
            raise ValueError(f"label is {self.label!r}; allowed: a printable name")


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class SuiteConfig:
    """A comparison.

    Args:
        title: What it shows, in one line.
        experiments: Column blocks.
        cells: Rows, in the order of the table.
        reference: Label of the cell that the others are tested against.
        metric: What is tabled after each task.
        fills: Table of the paper that it stands beside; none: no published numbers are shown.
        shrinkage: What is smaller than in the paper; printed with every table.
        seeds: Used where the command line names none.
        expected_order: Labels from worst to best as theory or paper has it; the summary says where
            it does not hold.
        remarks: Printed below the table.
    """

    title: str
    experiments: tuple[SuiteExperiment, ...]
    cells: tuple[SuiteCell, ...]
    reference: str
    metric: Metric = "accuracy"
    fills: Table | None = None
    shrinkage: str = ""
    seeds: tuple[int, ...] = (1, 2, 3)
    expected_order: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what must fit together."""
        for what, names in (
            ("cells", [cell.label for cell in self.cells]),
            ("experiments", [experiment.title for experiment in self.experiments]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if not names or twice:
                raise ValueError(
                    f"{what} has {'no entry' if not names else f'{twice[0]!r} twice'}; allowed: at "
                    "least one, each once"
                )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds is {list(self.seeds)}; allowed: one or more, each once")
        labels = [cell.label for cell in self.cells]
        for what, name in [
            ("reference", self.reference),
            *(("expected_order", name) for name in self.expected_order),
        ]:
            if name not in labels:
                raise ValueError(
                    f"{what} names {name!r}; known: {', '.join(labels)}. "
                    f"{suggestion(name, labels)}".strip()
                )
        self._check_published()

    def _check_published(self) -> None:
        if self.fills is None:
            return
        table = PUBLISHED[self.fills]
        if table.metric != self.metric:
            raise ValueError(
                f"metric is {self.metric!r} and fills {self.fills}, which prints {table.metric}; "
                "set one to the other's"
            )
        for experiment in self.experiments:
            if experiment.block not in table.blocks:
                known = ", ".join(map(repr, table.blocks))
                raise ValueError(
                    f"block of {experiment.title} is {experiment.block!r}; {self.fills} has {known}"
                )
        for cell in self.cells:
            labels = {label for rows in table.blocks.values() for label in rows}
            if cell.published is not None and cell.published not in labels:
                raise ValueError(
                    f"published of {cell.label} is {cell.published!r}; {self.fills} has "
                    f"{', '.join(sorted(labels))}"
                )

    def published(self, experiment: SuiteExperiment, cell: SuiteCell) -> PublishedRow | None:
        """Return what the paper printed for a cell; nothing where it has no such row."""
        if self.fills is None:
            return None
        return PUBLISHED[self.fills].blocks[experiment.block].get(cell.published or cell.label)


@dataclass(frozen=True)
class Suite:
    """A comparison whose every configuration has been checked.

    Args:
        name: Of its file.
        config: What the file holds.
        configs: Resolved experiment by titles of experiment and cell; the seed is not yet set.
        changes: Settings that were changed for all cells on the command line.
    """

    name: str
    config: SuiteConfig
    configs: Mapping[tuple[str, str], ExperimentConfig]
    changes: tuple[str, ...] = ()

    def pairs(self) -> Iterator[tuple[SuiteExperiment, SuiteCell]]:
        """Return experiments times cells."""
        return (
            (experiment, cell)
            for experiment in self.config.experiments
            for cell in self.config.cells
        )


def find_suite(name: str) -> Path:
    """Return the file of a suite.

    Args:
        name: A path, or the name of a preset in ``hospital_configs/suites``.

    Raises:
        SuiteError: If there is no such file.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise SuiteError(
            f"{path} does not exist; give a suite's YAML file or a preset: "
            f"{', '.join(preset_names())}"
        )
    preset = PRESETS / f"{name}.yaml"
    if not preset.is_file():
        raise SuiteError(
            f"suite is {name!r}; presets: {', '.join(preset_names())}. "
            f"{suggestion(name, preset_names())}".strip()
        )
    return preset


def preset_names() -> list[str]:
    """Return the presets, table2 before table10."""
    return sorted(
        (path.stem for path in PRESETS.glob("*.yaml")), key=lambda name: (len(name), name)
    )


def load_suite(path: Path, changes: Sequence[str] = ()) -> Suite:
    """Read and check a suite and every experiment in it.

    Args:
        path: Its YAML file.
        changes: ``path.to.key=value`` for every cell, after the suite's own.

    Raises:
        SuiteError: What cannot be run, or cells with unequal budgets.
        ConfigError: A key that nobody knows.
    """
    config: SuiteConfig = build(SuiteConfig, read_yaml(path), path.name)
    configs: dict[tuple[str, str], ExperimentConfig] = {}
    for experiment in config.experiments:
        for cell in config.cells:
            method = f"method={json.dumps(cell.method)}"
            try:
                resolved = load_experiment(
                    path.parent / experiment.folder,
                    [*experiment.changes, method, *cell.changes, *changes],
                )
            except ConfigError as error:
                raise SuiteError(
                    f"{path.name}, {experiment.title}, {cell.label}: {error}"
                ) from None
            configs[experiment.title, cell.label] = resolved
        excuses = {cell.label: cell.budget_differs for cell in config.cells}
        of_cells = {cell.label: configs[experiment.title, cell.label] for cell in config.cells}
        problem = check_equal_budget(of_cells, config.reference, excuses)
        if problem:
            raise SuiteError(f"{path.name}, {experiment.title}: {problem}")
    return Suite(path.stem, config, configs, tuple(changes))
