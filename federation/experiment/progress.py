"""Progress of a run in the terminal: bars for rounds and twins, a line per round, a table."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from federation.experiment.config import ExperimentConfig, method_name
from federation.experiment.loop import RunCallbacks
from incremental.device import device_title
from physical.scenario import Scenario


def bars(console: Console) -> Progress:
    """Return progress bars as every display has them: none where the console is no terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


class RunDisplay:
    """Shows a run on a terminal; on a pipe, one line per round and no bars.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = bars(console)
        self._rounds = self._progress.add_task("rounds", total=None)
        self._twins = self._progress.add_task("twins", total=None)
        self._scenario: Scenario | None = None
        self._round = 0
        self._done: dict[str, int] = {}

    @contextmanager
    def live(self) -> Iterator[RunCallbacks]:
        """Show the bars while the context is open."""
        with self._progress:
            yield RunCallbacks(begin=self._begin, twin_done=self._twin_done, record=self._record)

    def _begin(self, config: ExperimentConfig, scenario: Scenario, round_number: int) -> None:
        self._scenario = scenario
        self._round = round_number
        classes = " | ".join(", ".join(names) for names in scenario.tasks)
        self._console.print(
            f"[bold]{config.name}[/]: {method_name(config.method)} on {config.scenario.dataset}, "
            f"{len(config.hospitals)} hospitals, "
            f"{len(scenario.tasks)} tasks ({classes}), seed {config.seed}, on "
            f"{device_title(config.device)}"
            + (f", resumed at round {round_number + 1}" if round_number else "")
        )
        self._progress.update(self._rounds, total=scenario.num_rounds, completed=round_number)
        self._show_round()

    def _show_round(self) -> None:
        if self._scenario is not None:
            task = self._scenario.task_at(self._round) + 1
            self._progress.update(
                self._rounds,
                description=f"task {task} of {len(self._scenario.tasks)}, round {self._round + 1}",
            )

    def _twin_done(self, stage: str, twin_id: str) -> None:
        self._done[stage] = self._done.get(stage, 0) + 1
        self._progress.update(
            self._twins, description=f"{stage}: {twin_id}", completed=self._done[stage]
        )

    def _record(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == "round":
            self._done = {}
            self._round = record["round"] + 1
            self._progress.update(self._rounds, completed=self._round)
            self._progress.update(self._twins, completed=0)
            self._show_round()
            self._console.print(_round_line(record), highlight=False)
        elif record["kind"] == "task":
            forgetting = (
                "" if record["forgetting"] is None else f", forgetting {record['forgetting']:.3f}"
            )
            self._console.print(
                f"[bold green]task {record['task'] + 1} done[/]: accuracy "
                f"{record['accuracy']:.4f}, macro-F1 {record['macro_f1']:.4f} over "
                f"{len(record['seen_classes'])} classes{forgetting}",
                highlight=False,
            )


def _round_line(record: Mapping[str, Any]) -> str:
    losses = "  ".join(
        f"{name} {value:.3f}"
        for name, value in record["losses"].items()
        if name not in ("total", "gradient_norm")
    )
    accuracy = "" if record["accuracy"] is None else f"accuracy {record['accuracy']:.3f}  "
    epsilon = f"epsilon {record['epsilon']:.3g}  " if "epsilon" in record else ""
    numbers = f"{accuracy}{losses}{epsilon}"
    spent = f"{record['seconds']:.1f} s, {len(record['accepted'])} twins"
    line = f"round {record['round'] + 1:3d}  {numbers}  [dim]{spent}[/]"
    if record["grew"]:
        signals = sum(each["signal"] for each in record["observations"])
        grew = ", ".join(record["grew"])
        line += f"\n           [cyan]new classes[/] noticed by {signals} twins: {grew}"
    for each in record["rejected"]:
        line += f"\n           [yellow]rejected[/] {each['twin']}: {each['reason']}"
    return line


def closing_table(results: Mapping[str, Any]) -> Table:
    """Return the results of a run as a table."""
    table = Table(
        title=f"{results['experiment']}: {results['method']}, seed {results['seed']}",
        show_header=False,
    )
    detection = results["detection"]
    rows = {
        "average accuracy": f"{results['average_accuracy']:.4f}",
        "last accuracy": f"{results['last_accuracy']:.4f}",
        "macro-F1 (all seen classes)": f"{results['macro_f1']:.4f}",
        "forgetting": "-" if results["forgetting"] is None else f"{results['forgetting']:.4f}",
        "accuracy by task": "  ".join(f"{value:.4f}" for value in results["accuracy_by_task"]),
        "detection": _detection_line(detection),
        **{
            f"watched: {each['rule']} {each['jump_fraction']:g}": _detection_line(each)
            for each in results["watched"]
        },
        "time": f"{results['seconds']:.0f} s, {results['images_trained']:,} images trained",
        "traffic": f"{results['megabytes_up']:.0f} MB up, {results['megabytes_down']:.0f} MB down",
        "measured on": f"{results['evaluation_split']} images of {results['dataset']}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _detection_line(detection: Mapping[str, Any]) -> str:
    if detection["hit_rate"] is None:
        return f"{detection['rule']}: no boundary to notice"
    return (
        f"{detection['rule']}: {detection['noticed_at_once']} of {detection['boundaries']} "
        "boundaries at once, "
        f"{detection['false_alarms']} false alarms in {detection['twin_tasks']} twin-tasks"
    )
