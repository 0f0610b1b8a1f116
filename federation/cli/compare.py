"""``fedka compare``: many methods, many seeds, one table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli import fail, interrupt_on_sigterm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from federation.comparison.outcomes import Block
    from federation.comparison.suite import Suite

_EXAMPLES = """
Examples:

  fedka compare organa_cpu --seeds 1,2,3 --at-once 2

  fedka compare table2 --seeds 1,2,3 --only FedKA --only LGA

  fedka compare my_suite.yaml --seeds 1 --out runs/mine --set training.epochs=1

  fedka compare organa_cpu --rerun-changed

Ctrl-C loses at most the round under way: the same command goes on. A finished run is not repeated;
the summary names those that other code of the program made. A comparison that is not complete says
"not run" where something is missing.
"""


def compare(
    suite: Annotated[
        str,
        typer.Argument(
            help="A suite's YAML file, or a preset: table2 ... table11, organa_cpu, ..."
        ),
    ],
    seeds: Annotated[
        str,
        typer.Option(
            help="Comma-separated seeds, one run of each method per seed; default: the suite's."
        ),
    ] = "",
    out: Annotated[
        Path, typer.Option(help="Where comparisons are kept; runs are shared between suites.")
    ] = Path("runs/compare"),
    only: Annotated[
        list[str] | None, typer.Option(help="Run only this method (its label). May be repeated.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of every method: path.to.key=value."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="FEDKA_DATA", help="Folder with your own data files.")
    ] = None,
    at_once: Annotated[
        int,
        typer.Option(
            min=1, help="Runs side by side, each on one thread; at most as many as there are cores."
        ),
    ] = 1,
    tables_only: Annotated[
        bool,
        typer.Option(
            "--tables-only", help="Run nothing; write tables and figures of what has been run."
        ),
    ] = False,
    rerun_changed: Annotated[
        bool,
        typer.Option(
            "--rerun-changed",
            help="Run again what other code of the program made; the old results are kept aside.",
        ),
    ] = False,
    mlflow: Annotated[
        bool,
        typer.Option(
            help="Copy the comparison to OUT/mlflow.db: a parent run with a child per run."
        ),
    ] = True,
) -> None:
    """Compare methods under equal terms.

    Run what is missing, then write tables, tests and figures.
    """
    from rich.console import Console

    from federation.comparison.cells import plan_runs, put_aside_changed
    from federation.comparison.display import SuiteDisplay, closing_lines
    from federation.comparison.outcomes import collect
    from federation.comparison.runner import run_missing
    from federation.comparison.suite import find_suite, load_suite
    from federation.comparison.summary import write_comparison

    interrupt_on_sigterm()
    console = Console()
    loaded = load_suite(find_suite(suite), change or [])
    chosen = _seeds(seeds) or loaded.config.seeds
    everything = plan_runs(loaded, chosen, out)
    wanted = plan_runs(loaded, chosen, out, only or [])
    command = ["fedka", "compare", suite, "--seeds", ",".join(map(str, chosen)), "--out", str(out)]
    command += [word for value in change or [] for word in ("--set", value)]
    command += ["--at-once", str(at_once)] if at_once > 1 else []
    if rerun_changed and not tables_only:
        put_aside_changed(wanted)
    again = command + [word for label in only or [] for word in ("--only", label)]
    display = SuiteDisplay(console, wanted)
    num_failed, interrupted = 0, False
    if not tables_only:
        try:
            with display.live() as callbacks:
                num_failed = run_missing(wanted, data_dir, callbacks, at_once)
        except KeyboardInterrupt:
            interrupted = True
    blocks = collect(loaded, everything)
    page = write_comparison(loaded, blocks, chosen, out, command)
    if interrupted:
        display.tell_how_to_go_on(again, page)
        raise typer.Exit(130)
    if mlflow and any(run.is_finished for run in everything):
        _mirror(console, loaded, blocks, out)
    for line in closing_lines(loaded, blocks, page, console.width):
        console.print(line)
    if num_failed:
        fail(
            f"{num_failed} run(s) failed; what was raised stands in failure.json of their folders "
            f"and in {page}"
        )


def _seeds(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() for word in words) or len(set(words)) != len(words):
        fail(
            f"--seeds is {text!r}; allowed: whole numbers, each once, separated by commas, e.g. "
            "1,2,3"
        )
    return tuple(int(word) for word in words)


def _mirror(console: "Console", suite: "Suite", blocks: "Sequence[Block]", out: Path) -> None:
    """Copy to MLflow; whatever is wrong there never costs a comparison that has been written."""
    from federation.comparison.mlflow_upload import mirror_comparison

    try:
        mirror_comparison(suite, blocks, out)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        console.print(f"[yellow]MLflow has no copy[/]: {reason}; all is in {out}", highlight=False)


compare.__doc__ = f"{compare.__doc__}\n{_EXAMPLES}"
