"""``fedka report``, ``fedka twins`` and ``fedka methods``: look at runs and methods."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from federation.cli import fail


def report(run: Annotated[Path, typer.Argument(help="Run folder.")]) -> None:
    """Write a run's report anew: one HTML page with everything in it."""
    from federation.report import write_report

    Console().print(f"report  {write_report(run)}", highlight=False)


def twins(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    twin: Annotated[
        str | None, typer.Option(help="Only this twin, with its event history.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print plain data.")] = False,
) -> None:
    """Show the digital twins of a run: reported and desired state, and what happened to them."""
    from federation.experiment.twin_reports import reports_of_run

    console = Console()
    reports = reports_of_run(run)
    if twin is not None:
        if twin not in reports:
            fail(f"{run} has no twin {twin!r}; it has {', '.join(reports)}")
        reports = {twin: reports[twin]}
    if as_json:
        typer.echo(json.dumps(list(reports.values()), indent=1))
        return
    table = Table(title=f"Digital twins of {run}", box=box.SIMPLE)
    table.add_column("twin", no_wrap=True)
    for column in ("model", "classes", "learning", "memory", "waiting", "entropy", "in step"):
        table.add_column(column, justify="right")
    for twin_id, each in reports.items():
        state = each["reported"]
        table.add_row(
            twin_id,
            "-" if state["model_round"] < 0 else str(state["model_round"] + 1),
            f"{len(state['classes'])} of {len(each['desired']['classes'])}",
            str(sum(state["current_images"].values())),
            str(sum(state["exemplars"].values())),
            str(state["waiting_images"]),
            "-" if state["entropy"] is None else f"{state['entropy']:.2f}",
            "yes" if each["converged"] else "no",
        )
    console.print(table)
    if twin is None:
        console.print(
            "[dim]model: round of the one received; classes: seen, of the federation's; learning, "
            "memory, waiting: images[/]"
        )
    else:
        for name, count in reports[twin]["reported"]["current_images"].items():
            console.print(f"learning {name}: {count} images", highlight=False)
        for event in reports[twin]["events"]:
            console.print(f"round {event['round'] + 1:3d}  {event['what']}", highlight=False)


def methods() -> None:
    """List the methods: paper.

    Hyper-parameters with their defaults, what crosses a hospital's wall.
    """
    import sys

    from federation.methods import METHODS

    console = Console()
    for name, kind in METHODS.items():
        text = (sys.modules[kind.__module__].__doc__ or "").strip().splitlines()
        console.print(f"[bold]{name}[/]  {text[0].partition(': ')[2]}", highlight=False)
        for line in text[1:]:
            if line.strip():
                console.print(f"    [dim]{line.strip()}[/]", highlight=False)
        for field, value in vars(kind()).items():
            if not field.startswith("_"):
                console.print(f"    {field} = {value}", highlight=False)
        for each in (
            *("weights of the local model", "number of images", "mean of each loss term"),
            *kind.uploads,
        ):
            console.print(f"    uploads: {each}", highlight=False)
        console.print(
            f"    a hospital may forbid: {', '.join((*kind().upload_kinds.all(), 'metrics'))}",
            highlight=False,
        )
        console.print()
