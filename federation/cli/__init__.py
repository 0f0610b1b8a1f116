"""The command line. Each file is one group of commands; what is heavy is imported inside the command that uses it."""

import sys
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(
    name="fedka",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Federated class-incremental learning for medical imaging: hospitals' digital twins learn new classes without forgetting.\n\n"
    "A first run: [bold]fedka run hospital_configs/organa_demo --out runs/first[/], then open runs/first/report.html.",
)


def fail(message: object) -> NoReturn:
    """Print one error and end with exit code 2."""
    _show(message)
    raise typer.Exit(2)


def _show(message: object) -> None:
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


def run_app() -> None:
    """Run the program; an error of ours is one message and exit code 2, anything else is a traceback."""
    _mount()
    try:
        app()
    except (ValueError, OSError) as error:
        if type(error).__module__.partition(".")[0] not in _OURS:
            raise
        _show(error)
        sys.exit(2)


_OURS = ("physical", "incremental", "twin", "federation")
