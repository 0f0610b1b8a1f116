"""Tables of a comparison as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Callable, Sequence

from federation.comparison.outcomes import COSTS, Block, Row
from federation.comparison.statistics import PairedTest, Spread
from federation.comparison.suite import Suite

NOTHING = "-"
NOT_RUN = "not run"
_UNITS = {
    "images_trained": ("images trained", 1.0, 0),
    "seconds": ("seconds", 1.0, 1),
    "megabytes_up": ("MB up", 1.0, 1),
    "megabytes_down": ("MB down", 1.0, 1),
    "peak_memory_megabytes": ("peak memory, MB", 1.0, 0),
}
_METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


def percent(value: Spread | None, digits: int = 2) -> str:
    """Return mean ± standard deviation in percent; a single seed has no deviation."""
    if value is None:
        return NOTHING
    mean = f"{100 * value.mean:.{digits}f}"
    return mean if value.deviation is None else f"{mean} ± {100 * value.deviation:.{digits}f}"


def against(test: PairedTest | None, with_interval: bool = True) -> str:
    """Return the difference to the reference in percentage points, with its 95 % interval."""
    if test is None:
        return NOTHING
    known = with_interval and test.low is not None and test.high is not None
    interval = f" [{100 * (test.low or 0):+.2f}, {100 * (test.high or 0):+.2f}]" if known else ""
    return f"{100 * test.difference:+.2f}{interval}"


def probability(value: float | None) -> str:
    """Return a p value as it is usually written."""
    return NOTHING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def heading(suite: Suite, block: Block) -> list[str]:
    """Return the column titles of the results."""
    return [
        "method",
        "n",
        *(f"{count} classes" for count in block.classes),
        "average",
        f"less {suite.config.reference} [95 %]",
        "p (Holm)",
        "last",
        "forgetting",
    ]


def result_cells(suite: Suite, block: Block, row: Row, with_interval: bool = True) -> list[str]:
    """Return one method's results as text, in the order of the heading."""
    if row.average is None:
        why = "failed" if row.failure else NOT_RUN
        return [row.label, "0", *(why for _ in block.classes), why, *[NOTHING] * 4]
    is_reference = row.label == suite.config.reference
    return [
        row.label,
        str(row.average.count),
        *(percent(each) for each in row.by_task),
        percent(row.average),
        "reference" if is_reference else against(row.against, with_interval),
        NOTHING if is_reference else probability(row.corrected),
        percent(row.last),
        percent(row.forgetting),
    ]


def published_cells(block: Block, row: Row) -> list[str] | None:
    """Return what the paper printed for a method, in the order of the heading.

    Nothing where it has no such row.
    """
    if row.published is None:
        return None
    values = [f"{value:.2f}" for value in row.published.by_task]
    by_task = values if len(values) == len(block.classes) else [NOTHING] * len(block.classes)
    gain = NOTHING if row.published.improvement is None else f"{-row.published.improvement:+.2f}"
    return [
        "published",
        "1",
        *by_task,
        f"{row.published.average:.2f}",
        gain,
        NOTHING,
        values[-1] if values else NOTHING,
        NOTHING,
    ]


def results_markdown(suite: Suite, blocks: Sequence[Block]) -> str:
    """Return the results, a table per experiment; the paper's row stands in italics under ours."""
    parts = []
    for block in blocks:
        lines = [_bar(heading(suite, block)), _bar(["---", *["---:"] * (len(block.classes) + 6)])]
        for row in block.rows:
            cells = result_cells(suite, block, row)
            if row.label == suite.config.reference:
                cells[0] = f"**{_clean(cells[0])}**"
            lines.append(
                _bar([cells[0] if cells[0].startswith("**") else _clean(cells[0]), *cells[1:]])
            )
            published = published_cells(block, row)
            if published:
                lines.append(_bar([f"*{each}*" if each != NOTHING else each for each in published]))
        title = f"**{_clean(block.experiment.title)}**, {_METRICS[suite.config.metric]} in percent"
        parts.append("\n".join([title, "", *lines]))
    return "\n\n".join(parts) + "\n"


def budget_markdown(suite: Suite, blocks: Sequence[Block]) -> str:
    """Return what each method got and what it cost (mean over seeds), a table per experiment."""
    parts = []
    for block in blocks:
        names = [
            "method",
            "rounds",
            "epochs",
            "exemplars per twin",
            *(_UNITS[name][0] for name in COSTS),
            "boundaries noticed, %",
        ]
        lines = [_bar(names), _bar(["---", *["---:"] * (len(names) - 1)])]
        for row in block.rows:
            if row.answer:
                continue  # another reading of the same run
            config = suite.configs[block.experiment.title, row.cell.label]
            rounds = config.scenario.num_tasks * config.scenario.rounds_per_task
            exemplars = "no limit" if row.exemplars >= _UNLIMITED else str(row.exemplars)
            noticed = NOT_RUN if row.average is None else percent(row.noticed, 0)
            lines.append(
                _bar(
                    [
                        _clean(row.label),
                        str(rounds),
                        str(config.training.epochs),
                        exemplars,
                        *_costs(row),
                        noticed,
                    ]
                )
            )
        parts.append("\n".join([f"**{_clean(block.experiment.title)}**", "", *lines]))
    return "\n\n".join(parts) + "\n"


_UNLIMITED = 10**9  # a capacity that no data set fills: how a bound says "all images"


def _costs(row: Row) -> list[str]:
    texts = []
    for name in COSTS:
        _, scale, digits = _UNITS[name]
        value = row.costs.get(name)
        texts.append(
            (NOT_RUN if row.average is None else NOTHING)
            if value is None
            else f"{value.mean * scale:,.{digits}f}"
        )
    return texts


def results_csv(suite: Suite, blocks: Sequence[Block]) -> str:
    """Return every number of a comparison, one line per method and experiment.

    Shares and not percent, empty where not run.
    """
    most = max(len(block.classes) for block in blocks)
    tasks = [f"task_{index + 1}{part}" for index in range(most) for part in ("", "_sd")]
    names = [
        "experiment",
        "method",
        "status",
        "n",
        "seeds",
        "metric",
        *tasks,
        "average",
        "average_sd",
        "last",
        "last_sd",
    ]
    names += [
        "forgetting",
        "forgetting_sd",
        "difference",
        "difference_low",
        "difference_high",
        "p",
        "p_holm",
    ]
    names += ["exemplars_per_twin", *COSTS, "boundaries_noticed", "published_average"]
    file = io.StringIO()
    table = csv.DictWriter(file, names, lineterminator="\n")
    table.writeheader()
    for block in blocks:
        for row in block.rows:
            values: dict[str, object] = {
                "experiment": block.experiment.title,
                "method": row.label,
                "status": "run" if row.average else "failed" if row.failure else NOT_RUN,
                "n": len(row.outcomes),
                "seeds": " ".join(str(outcome.seed) for outcome in row.outcomes),
                "metric": suite.config.metric,
                "exemplars_per_twin": row.exemplars,
                "boundaries_noticed": None if row.noticed is None else row.noticed.mean,
                "published_average": None if row.published is None else row.published.average / 100,
            }
            for index, each in enumerate(row.by_task):
                values |= _spread_columns(f"task_{index + 1}", each)
            for name in ("average", "last", "forgetting"):
                values |= _spread_columns(name, getattr(row, name))
            if row.against is not None:
                test = row.against
                values |= {
                    "difference": test.difference,
                    "difference_low": test.low,
                    "difference_high": test.high,
                }
                values |= {"p": test.probability, "p_holm": row.corrected}
            values |= {name: each.mean for name, each in row.costs.items()}
            table.writerow({name: _rounded(value) for name, value in values.items()})
    return file.getvalue()


def results_latex(suite: Suite, blocks: Sequence[Block]) -> str:
    """Return the results as LaTeX tables (package ``booktabs``)."""
    parts = []
    for block in blocks:
        names = heading(suite, block)
        lines = [
            rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}",
            r"\toprule",
            _ampersands(names, _latex),
            r"\midrule",
        ]
        for row in block.rows:
            lines.append(_ampersands(result_cells(suite, block, row), _latex))
            published = published_cells(block, row)
            if published:
                lines.append(
                    _ampersands(
                        published,
                        lambda text: text if text == NOTHING else rf"\textit{{{_latex(text)}}}",
                    )
                )
        lines += [r"\bottomrule", r"\end{tabular}"]
        note = (
            f"% {suite.name}: {block.experiment.title}, {_METRICS[suite.config.metric]} in "
            "percent, mean $\\pm$ sd over seeds"
        )
        shrunk = (
            [f"% shrunk: {' '.join(suite.config.shrinkage.split())}"]
            if suite.config.shrinkage
            else []
        )
        parts.append("\n".join([note, *shrunk, *lines]))
    return "\n\n".join(parts) + "\n"


def _spread_columns(name: str, value: Spread | None) -> dict[str, object]:
    return {} if value is None else {name: value.mean, f"{name}_sd": value.deviation}


def _rounded(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def _bar(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _clean(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")


def _ampersands(cells: Sequence[str], form: Callable[[str], str]) -> str:
    return " & ".join(map(form, cells)) + r" \\"


def _latex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
        "<": r"$<$",
        ">": r"$>$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    special |= {letter: rf"\{letter}" for letter in "&%$#_{}"}
    return "".join(special.get(letter, letter) for letter in text)
