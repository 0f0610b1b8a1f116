"""The command line ``fedka``: one file per group of commands.

A command imports heavy packages only when it runs.
"""

import signal
import sys
from types import FrameType
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

_OUR_PACKAGES = ("physical", "incremental", "twin", "federation")

app = typer.Typer(
    name="fedka",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Federated class-incremental learning for medical imaging: "
    "hospitals' digital twins learn new classes without forgetting.\n\n"
    "A first run: [bold]fedka run hospital_configs/organa_demo --out runs/first[/], "
    "then open runs/first/report.html.",
)


def fail(message: object) -> NoReturn:
    """Print an error and exit with code 2."""
    _print_error(message)
    raise typer.Exit(2)


def _print_error(message: object) -> None:
    Console(stderr=True).print(
        "[bold red]error:[/]", escape(str(message)), highlight=False, soft_wrap=True
    )


def _mount() -> None:
    from federation.cli import (
        compare,
        console,
        console_demo,
        data,
        deploy,
        inspect,
        models,
        predict,
        run,
    )

    app.command("run")(run.run)
    app.command("check")(run.check)
    app.command("compare")(compare.compare)
    app.command("report")(inspect.report)
    app.command("twins")(inspect.twins)
    app.command("methods")(inspect.methods)
    app.command("predict")(predict.predict)
    app.command("sync")(models.sync)
    app.add_typer(data.app, name="data", help="Data sets: list, show their data sheet, fetch.")
    console.app.command("demo")(console_demo.demo)
    app.add_typer(
        console.app,
        name="console",
        help="The clinicians' console: make it, serve it, take images in.",
    )
    app.add_typer(
        console.users, name="users", help="Accounts of a console: add, list, disable, new password."
    )
    app.add_typer(console.audit, name="audit", help="Audit log of a console: verify, show.")
    app.command("status")(deploy.status)
    app.add_typer(
        deploy.app,
        name="deploy",
        help="Hospitals on many machines: make kits, check them, start sites, run.",
    )
    app.add_typer(models.app, name="models", help="Registered models: list, promote, roll back.")


def interrupt_on_sigterm() -> None:
    """Answer SIGTERM like Ctrl-C: what is finished is saved, and how to go on is said."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def run_app() -> None:
    """Run the program. Our own errors become a message and exit code 2, others a traceback."""
    _mount()
    try:
        app()
    except (ValueError, OSError) as error:
        if type(error).__module__.partition(".")[0] not in _OUR_PACKAGES:
            raise
        _print_error(error)
        sys.exit(2)
