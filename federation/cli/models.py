"""``fedka models`` and ``fedka sync``: list and promote models, upload a run to MLflow."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from incremental.registry import ModelRegistry, ModelVersion

app = typer.Typer(no_args_is_help=True)

Store = Annotated[
    str | None,
    typer.Option(
        "--uri", help="MLflow store: sqlite:///... or http(s)://...; default: runs/mlflow.db."
    ),
]
Name = Annotated[str, typer.Option("--name", help="Name of the registered model.")]
Format = Annotated[
    Literal["table", "json"], typer.Option("--format", help="For people or for programs.")
]

_SQLITE = "sqlite:///"
_WIDE = 120  # width of a terminal that has room for class names, scores and digests


@app.command("list")
def list_models(uri: Store = None, name: Name = "fedka", output: Format = "table") -> None:
    """List the versions of a registered model: aliases, classes and accuracy of each."""
    versions = open_registry(uri, name).list_versions()
    if output == "json":
        plain = [{**asdict(each), "created": each.created.isoformat()} for each in versions]
        typer.echo(json.dumps(plain, indent=1))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    is_wide = console.width >= _WIDE
    columns = ["version", "aliases", "classes", "round"]
    columns += ["score", "test accuracy", "digest"] if is_wide else ["test accuracy"]
    columns += ["created", "decision"]
    table = Table(title=f"Registered model {name}", box=box.SIMPLE)
    for column in columns:
        table.add_column(column, overflow="fold")
    for version in versions:
        cells = _cells(version, with_class_names=is_wide)
        table.add_row(*(cells[column] for column in columns))
    console.print(table)
    if not is_wide:
        more = "also shows class names, scores and digests"
        console.print(f"[dim]a window of {_WIDE} columns, or --format json, {more}[/]")


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Number or alias of the version.")],
    uri: Store = None,
    name: Name = "fedka",
) -> None:
    """Make a version the champion, even if the acceptance rule refuses it; rollback undoes it."""
    from incremental.registry import refusal_reason

    registry = open_registry(uri, name)
    chosen, before = registry.find(version), registry.champion()
    against = refusal_reason(
        chosen.class_names, chosen.accuracy, before.class_names if before else ()
    )
    registry.promote(chosen.version)
    previous = before.version if before else "none"
    typer.echo(f"champion of {name}: version {chosen.version} (before: {previous})")
    if against:
        typer.echo(f"note: version {chosen.version} {against}", err=True)


@app.command()
def rollback(uri: Store = None, name: Name = "fedka") -> None:
    """Make the version before the champion champion again."""
    now = open_registry(uri, name).rollback()
    typer.echo(f"champion of {name}: version {now.version}")


def sync(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    uri: Annotated[
        str | None, typer.Option(help="MLflow store; default: the one of the run's configuration.")
    ] = None,
) -> None:
    """Upload what MLflow lacks of a run, after an outage or to another store."""
    from federation.tracking import sync as upload

    state = upload(run, uri)
    count = f"{state.records_uploaded} records"
    typer.echo(f"{run} is in {state.tracking_uri} as run {state.run_id}: {count}")
    for folder, entry in state.versions.items():
        decision = f"not champion: it {entry['refused']}" if entry["refused"] else "accepted"
        typer.echo(f"  {folder}: version {entry['version']}, {decision}")


def open_registry(uri: str | None, name: str) -> "ModelRegistry":
    """Open an existing registry of models; a missing one is not created.

    Raises:
        RegistryError: If there is none at that address.
    """
    from incremental.registry import ModelRegistry, RegistryError

    uri = uri or f"{_SQLITE}runs/mlflow.db"
    path = uri.removeprefix(_SQLITE)
    if uri.startswith(_SQLITE) and not Path(path).is_file():
        raise RegistryError(
            f"there is no store of models at {path}; expected: the mlflow.db beside a run folder; "
            "name another with --uri, or upload a run first with: fedka sync RUN"
        )
    return ModelRegistry(uri, name)


def _cells(version: "ModelVersion", with_class_names: bool) -> dict[str, str]:
    facts, count = version.facts, str(len(version.class_names))
    return {
        "version": str(version.version),
        "aliases": ", ".join(version.aliases),
        "classes": f"{count}: {', '.join(version.class_names)}" if with_class_names else count,
        "round": facts.get("round", "-"),
        "score": _number(facts.get("score")),
        "test accuracy": _number(facts.get("test_accuracy")),
        "digest": facts.get("digest", "-").removeprefix("sha256:")[:10],
        "created": f"{version.created.astimezone():%Y-%m-%d %H:%M}",
        "decision": facts.get("acceptance", "-"),
    }


def _number(text: str | None) -> str:
    return "-" if text is None else f"{float(text):.4f}"
