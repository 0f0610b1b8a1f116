"""``fedka data``: list the data sets, show a data sheet, fetch files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import progress
from rich.console import Console
from rich.table import Table

from federation.cli import fail

if TYPE_CHECKING:
    from physical.datasets import DataSheet, ImageDataset

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Data sets: list, show their data sheet, fetch.",
)

Name = Annotated[
    str, typer.Argument(help="Name of a data set; [bold]fedka data list[/] shows them.")
]
Names = Annotated[
    list[str], typer.Argument(help="Names of data sets; [bold]fedka data list[/] shows them.")
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder with your own data files. "
        "The environment variable FEDKA_DATA names another one."
    ),
]
_SPLITS = ("train", "validation", "test")


@app.command("list")
def list_datasets(data_dir: DataDir = None) -> None:
    """List the data sets: their sizes, and whether their files are at hand.

    Example: [bold]fedka data list[/]
    """
    from physical.datasets import DATASETS, DataError, is_available

    table = Table()
    for column in ("name", "classes", "train / validation / test", "image", "at hand"):
        table.add_column(column, no_wrap=True)
    for name, entry in DATASETS.items():
        sheet = entry.sheet
        try:
            at_hand = "[green]yes[/]" if is_available(name, data_dir) else "no"
        except DataError as error:
            if data_dir is not None and not data_dir.is_dir():
                fail(error)
            at_hand = "[red]damaged[/]"
        counts = " / ".join(f"{sheet.counts[split]:,}" for split in _SPLITS)
        table.add_row(name, str(len(sheet.class_names)), counts, _size(sheet), at_hand)
    Console().print(table)


@app.command("show")
def show(name: Name, data_dir: DataDir = None) -> None:
    """Show a data sheet, with the number of images of each class where the files are at hand.

    Example: [bold]fedka data show organamnist[/]
    """
    from physical.datasets import DataError, entry_of, is_available, load_dataset

    console = Console()
    try:
        sheet = entry_of(name).sheet
        console.print(_sheet_table(sheet))
        if not is_available(name, data_dir):
            how = f"[bold]fedka data fetch {name}[/]"
            console.print(f"Images of each class: not known before {how}")
            return
        console.print(_class_table(load_dataset(name, data_dir, fetch=False)))
    except (DataError, OSError) as error:
        fail(error)


@app.command("fetch")
def fetch(names: Names, data_dir: DataDir = None) -> None:
    """Fetch missing data sets into the cache and check each file by its digest.

    Searched in this order: --data-dir, FEDKA_DATA, the cache, the official address, mirrors.
    An interrupted download continues where it ended.

    Examples: [bold]fedka data fetch organamnist[/],
    [bold]fedka data fetch cifar100 --data-dir /media/stick[/]
    """
    from physical.datasets import DataError, entry_of, fetch_dataset

    console = Console()
    try:
        for name in names:  # a typing error stops before the first download
            entry_of(name)
    except DataError as error:
        fail(error)
    errors: list[str] = []
    for name in names:
        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
        )
        with progress.Progress(*columns, console=console, transient=True) as bar:
            try:
                fetch_dataset(
                    name, data_dir, partial(_print_step, console, name), _progress_of(bar)
                )
                _print_step(console, name, "ready")
            except (DataError, OSError) as error:
                errors.append(str(error))
    if errors:
        fail("\n".join(errors))


def _print_step(console: Console, name: str, line: str) -> None:
    console.print(f"{name}: {line}", markup=False, highlight=False, soft_wrap=True)


def _progress_of(bar: progress.Progress) -> Callable[[str, int, int | None], None]:
    """Return a function that shows a download in a progress bar, one line per file."""
    tasks: dict[str, progress.TaskID] = {}

    def show_bytes(file_name: str, done: int, total: int | None) -> None:
        if file_name not in tasks:
            tasks[file_name] = bar.add_task(file_name, total=total)
        bar.update(tasks[file_name], completed=done, total=total)

    return show_bytes


def _sheet_table(sheet: DataSheet) -> Table:
    table = Table(title=sheet.title, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    sides = "are classes: images must not be mirrored"
    rows = {
        "name": sheet.name,
        "what": sheet.description,
        "home": sheet.source,
        "licence": sheet.licence,
        "cite": sheet.citation,
        "images": ", ".join(f"{split} {sheet.counts[split]:,}" for split in _SPLITS),
        "image": _size(sheet),
        "left and right": sides if sheet.has_left_and_right else "do not matter",
        f"{len(sheet.class_names)} classes": ", ".join(sheet.class_names),
        "files": "\n".join(f"{file.name}  md5 {file.md5}" for file in sheet.files),
        "comes from": "\n".join(source.title for source in sheet.sources),
    }
    for row in rows.items():
        table.add_row(*row)
    return table


def _class_table(dataset: ImageDataset) -> Table:
    import numpy as np

    table = Table("class", *_SPLITS, title="Images of each class")
    for column in table.columns[1:]:
        column.justify = "right"
    names = dataset.sheet.class_names
    splits = (dataset.train, dataset.validation, dataset.test)
    counts = [np.bincount(split.labels, minlength=len(names)) for split in splits]
    for name, *row in zip(names, *counts, strict=True):
        table.add_row(name, *(f"{count:,}" for count in row))
    return table


def _size(sheet: DataSheet) -> str:
    height, width, channels = sheet.image_size
    return f"{height} x {width} px, {'grey' if channels == 1 else 'colour'}"
