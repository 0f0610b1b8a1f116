"""``fedka models`` and ``fedka sync``: look at registered models, choose the champion, upload a run later. Train nothing."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
_WIDE = 120  # columns of a terminal that has room for class names
_NARROW = ("version", "aliases", "classes", "round", "test accuracy", "created", "decision")
_COLUMNS = (
    "version",
    "aliases",
    "classes",
    "round",
    "score",
    "test accuracy",
    "digest",
    "created",
    "decision",
)


@app.command("list")
def list_models(uri: Store = None, name: Name = "fedka", output: Format = "table") -> None:
    """List the versions of a registered model: who serves, what each can name, how good it is."""
    versions = open_registry(uri, name).list_versions()
    if output == "json":
        typer.echo(json.dumps([_plain(version) for version in versions], indent=1))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    columns = _COLUMNS if console.width >= _WIDE else _NARROW
    table = Table(title=f"Registered model {name}", box=box.SIMPLE)
    for column in columns:
        table.add_column(column, overflow="fold")
    for version in versions:
        cells = dict(zip(_COLUMNS, _row(version), strict=True))
        if console.width < _WIDE:
            cells["classes"] = cells["classes"].partition(":")[0]
        table.add_row(*(cells[column] for column in columns))
    console.print(table)
    if columns is _NARROW:
        console.print(
            "[dim]a window of 120 columns, or --format json, also shows class names, scores and digests[/]"
        )


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="Number or alias of the version.")],
    uri: Store = None,
    name: Name = "fedka",
) -> None:
    """Make a version the champion, whatever the rule of acceptance says; rollback undoes it."""
    from incremental.registry import objection

    registry = open_registry(uri, name)
    chosen, before = registry.find(version), registry.champion()
    against = objection(chosen.class_names, chosen.accuracy, before.class_names if before else ())
    registry.promote(chosen.version)
    typer.echo(
        f"champion of {name}: version {chosen.version} (before: {before.version if before else 'none'})"
    )
    if against:
        typer.echo(f"note: version {chosen.version} {against}", err=True)


@app.command()
def rollback(uri: Store = None, name: Name = "fedka") -> None:
    """Give the place of the champion back to the version that had it before."""
    now = open_registry(uri, name).rollback()
    typer.echo(f"champion of {name}: version {now.version}")


def sync(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    uri: Annotated[
        str | None, typer.Option(help="MLflow store; default: the one of the run's configuration.")
    ] = None,
) -> None:
    """Upload to MLflow whatever of a run is not there yet: after an outage, or to another store."""
    from federation.tracking import sync as upload

    receipt = upload(run, uri)
    typer.echo(
        f"{run} is in {receipt.tracking_uri} as run {receipt.run_id}: {receipt.records_uploaded} records"
    )
    for folder, entry in receipt.versions.items():
        decision = f"not champion: it {entry['refused']}" if entry["refused"] else "accepted"
        typer.echo(f"  {folder}: version {entry['version']}, {decision}")


def open_registry(uri: str | None, name: str) -> "ModelRegistry":
    """Return a registry that exists: to look at models never makes a store.

    Raises:
        RegistryError: If there is none at that place.
    """
    from incremental.registry import ModelRegistry, RegistryError

    uri = uri or f"{_SQLITE}runs/mlflow.db"
    if uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).is_file():
        raise RegistryError(
            f"there is no store of models at {uri.removeprefix(_SQLITE)}; expected: the mlflow.db beside a run folder; name another with "
            "--uri, or upload a run first with: fedka sync RUN"
        )
    return ModelRegistry(uri, name)


def _plain(version: "ModelVersion") -> dict[str, Any]:
    return {**asdict(version), "created": version.created.isoformat()}


def _row(version: "ModelVersion") -> tuple[str, ...]:
    facts = version.facts
    return (
        str(version.version),
        ", ".join(version.aliases),
        f"{len(version.class_names)}: {', '.join(version.class_names)}",
        facts.get("round", "-"),
        _number(facts.get("score")),
        _number(facts.get("test_accuracy")),
        facts.get("digest", "-").removeprefix("sha256:")[:10],
        f"{version.created.astimezone():%Y-%m-%d %H:%M}",
        facts.get("acceptance", "-"),
    )


def _number(text: str | None) -> str:
    return "-" if text is None else f"{float(text):.4f}"
