"""Summary of a comparison: one folder with text, tables, figures and every number."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from federation.comparison.budget import budget_line
from federation.comparison.figures import classes_figure
from federation.comparison.outcomes import Block, Row, as_plain, compare
from federation.comparison.published import PUBLISHED
from federation.comparison.statistics import LEVEL
from federation.comparison.suite import Suite
from federation.comparison.tables import (
    against,
    budget_markdown,
    probability,
    results_csv,
    results_latex,
    results_markdown,
)

_SHORT = 10  # letters of a commit


def write_comparison(
    suite: Suite, blocks: Sequence[Block], seeds: Sequence[int], out: Path, command: Sequence[str]
) -> Path:
    """Write a comparison as far as it has been run.

    Args:
        suite: What is compared.
        blocks: Its rows.
        seeds: That were asked for.
        out: Where comparisons are kept; this one is written to ``out/<suite>``.
        command: Words of the command line that makes it again.

    Returns:
        The summary.
    """
    folder = out / suite.name
    folder.mkdir(parents=True, exist_ok=True)
    figures = _write_figures(suite, blocks, folder)
    plain = {
        **as_plain(suite, blocks, seeds),
        "command": shlex.join(command),
        "made_with": _made_with(blocks),
    }
    _write(
        folder / "comparison.json", (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode()
    )
    _write(folder / "table.md", results_markdown(suite, blocks).encode())
    _write(folder / "budget.md", budget_markdown(suite, blocks).encode())
    _write(folder / "table.csv", results_csv(suite, blocks).encode())
    _write(folder / "table.tex", results_latex(suite, blocks).encode())
    _write(folder / "summary.md", summary(suite, blocks, seeds, command, figures).encode())
    return folder / "summary.md"


def summary(
    suite: Suite,
    blocks: Sequence[Block],
    seeds: Sequence[int],
    command: Sequence[str],
    figures: Sequence[str],
) -> str:
    """Return the whole comparison on one Markdown page."""
    config = suite.config
    wanted = len(seeds) * len(config.experiments) * len(config.cells)
    finished = sum(len(row.outcomes) for block in blocks for row in block.rows if not row.answer)
    parts = [
        f"# {config.title}",
        f"{finished} of {wanted} runs are "
        f"finished{'' if finished == wanted else '; the others are not run'}.",
    ]
    if config.shrinkage:
        parts.append(f"**Smaller than the paper:** {' '.join(config.shrinkage.split())}")
    if suite.changes:
        parts.append(
            f"**Changed on the command line, for every method:** `{'`, `'.join(suite.changes)}`"
        )
    parts += [results_markdown(suite, blocks).strip(), _how_to_read(suite, seeds)]
    parts += _failures(blocks)
    parts += _other_code(blocks)
    parts += [_expected_order(suite, block) for block in blocks if config.expected_order]
    parts += [f"![{suite.config.title}: accuracy by number of classes]({name})" for name in figures]
    parts += [
        "## Equal terms",
        *_terms(suite, blocks),
        "## Cost and detection (mean over seeds)",
        budget_markdown(suite, blocks).strip(),
    ]
    parts.append(
        "Images trained: images times epochs of all accepted updates. Seconds: of the rounds, "
        "measuring included. MB: weights and uploads "
        "without compression. Peak memory: resident, program and workers together, looked at five "
        "times a second; shared pages count once "
        "per process. Boundaries noticed: share of pairs of twin and later task in which the twin "
        "noticed its new classes, at once or "
        "later in the task; what is noticed late is learned late, and that is part of a method's "
        "accuracy."
    )
    parts += (
        ["## Remarks", *(f"- {' '.join(remark.split())}" for remark in config.remarks)]
        if config.remarks
        else []
    )
    parts += ["## Made with", _made_with_text(command, blocks)]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def _how_to_read(suite: Suite, seeds: Sequence[int]) -> str:
    test = (
        "± is the sample standard deviation over n seeds. The average is the plain mean over "
        f"tasks. *Less {suite.config.reference}*: "
        "difference of averages on the same seeds, in percentage points, with the 95 % interval of "
        "Student's paired t; p is its two-sided "
        "value, corrected for the number of methods (Holm)."
    )
    if len(seeds) < 5:
        test += (
            f" With n = {len(seeds)} the test is weak and leans on roughly normal differences: a p "
            f"above {LEVEL} says that these seeds do "
            "not tell the two apart, not that they are equal; a p below is a hint, no proof."
        )
    if suite.config.fills is not None:
        number = suite.config.fills.removeprefix("table")
        test += (
            f" *Published*: table {number} of the FedKA paper "
            f"({PUBLISHED[suite.config.fills].title}), one seed and no spread; its "
            "difference is to the published FedKA."
        )
    return test


def _failures(blocks: Sequence[Block]) -> list[str]:
    found = [
        f"- {row.label}, {block.experiment.title}: {row.failure}"
        for block in blocks
        for row in block.rows
        if row.failure
    ]
    return ["## Failed", "\n".join(found)] if found else []


def _other_code(blocks: Sequence[Block]) -> list[str]:
    """Name the runs that were trained by other code than this program's."""
    found = [
        f"- {row.label}, {block.experiment.title}: seed{'s' if len(seeds) > 1 else ''} "
        f"{', '.join(map(str, seeds))}"
        for block in blocks
        for row in block.rows
        if (seeds := [each.seed for each in row.outcomes if not each.by_todays_code])
    ]
    if not found:
        return []
    say = (
        "**These runs were trained by other code than this program's**, so rows may differ for "
        "that reason alone. `fedka compare ... --rerun-changed` runs them again."
    )
    return ["## Made by other code", say, "\n".join(found)]


def _expected_order(suite: Suite, block: Block) -> str:
    """Return the expected order, neighbour by neighbour, as found."""
    order = suite.config.expected_order
    lines = [f"## Expected order, as found: {block.experiment.title}", " < ".join(order) + ":", ""]
    lines += [
        _neighbours(suite, block.row(worse), block.row(better)) for worse, better in pairwise(order)
    ]
    ranked = sorted((block.row(label) for label in order if block.row(label).average), key=_average)
    if ranked:
        lines += [
            "",
            "Found, from worst to best: "
            + " < ".join(f"{row.label} {100 * _average(row):.2f}" for row in ranked),
        ]
    return "\n".join(lines)


def _neighbours(suite: Suite, worse: Row, better: Row) -> str:
    test = compare(better, worse, suite.config.metric)
    pair = f"- {worse.label} < {better.label}: "
    if test is None:
        return pair + "not run"
    holds = "holds" if test.difference > 0 else "does not hold"
    if test.probability is None:
        return pair + f"{holds}, {against(test)} points, one seed"
    apart = "" if test.probability < LEVEL else "; these seeds do not tell the two apart"
    return (
        pair
        + f"{holds}, {against(test)} points, p {probability(test.probability)} (not corrected), "
        + f"n = {test.count}{apart}"
    )


def _average(row: Row) -> float:
    return 0.0 if row.average is None else row.average.mean


def _terms(suite: Suite, blocks: Sequence[Block]) -> list[str]:
    reference = suite.config.reference
    lines = [
        f"- {block.experiment.title}: "
        f"{budget_line(suite.configs[block.experiment.title, reference])}."
        for block in blocks
    ]
    lines += [
        f"- {cell.label} has another budget: {cell.budget_differs}"
        for cell in suite.config.cells
        if cell.budget_differs
    ]
    lines += [
        f"- {cell.label} has settings of its own: `{'`, `'.join(cell.changes)}`"
        for cell in suite.config.cells
        if cell.changes
    ]
    return ["\n".join(lines)]


def _made_with(blocks: Sequence[Block]) -> dict[str, Any]:
    outcomes = [outcome for block in blocks for row in block.rows for outcome in row.outcomes]
    return {
        "code_versions": sorted({each for outcome in outcomes for each in outcome.code_versions}),
        "machines": sorted({_machine(outcome.environment) for outcome in outcomes}),
        "packages": _packages(outcomes[0].environment) if outcomes else {},
    }


def _machine(environment: Mapping[str, Any]) -> str:
    return (
        f"{environment['cpu']}, {environment['cores']} cores, {environment['threads']} thread(s) "
        "per training"
    )


def _packages(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "python": environment["python"],
        **{name: version for name, version in environment["packages"].items() if version},
    }


def _made_with_text(command: Sequence[str], blocks: Sequence[Block]) -> str:
    made = _made_with(blocks)
    versions = [
        commit[:_SHORT] + ("+changes" if commit.endswith("+changes") else "")
        for commit in made["code_versions"]
    ]
    lines = [
        f"- command: `{shlex.join(command)}`",
        f"- commit: {', '.join(versions) or 'nothing has been run'}",
    ]
    if len(versions) > 1:
        lines[-1] += " (the runs are not all of one commit)"
    lines += [f"- machine: {machine}" for machine in made["machines"]]
    lines += (
        [
            "- packages: "
            f"{', '.join(f'{name} {version}' for name, version in made['packages'].items())}"
        ]
        if made["packages"]
        else []
    )
    return "\n".join(lines)


def _write_figures(suite: Suite, blocks: Sequence[Block], folder: Path) -> list[str]:
    names = []
    for place, block in enumerate(blocks):
        stem = "accuracy_by_classes" if len(blocks) == 1 else f"accuracy_by_classes_{place + 1}"
        for kind in ("svg", "png"):
            drawn = classes_figure(suite, block, kind)
            if drawn is not None:
                _write(folder / f"{stem}.{kind}", drawn)
                names += [f"{stem}.{kind}"] if kind == "png" else []
    return names


def _write(place: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    beside.write_bytes(content)
    beside.replace(place)
