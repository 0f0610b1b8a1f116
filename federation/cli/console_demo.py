"""``fedka console demo``: three made hospitals on this machine, phantom scans that stream in, and the console open on an address."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli import fail
from federation.cli.console import serve

if TYPE_CHECKING:
    from types import FrameType

    import psutil

    from federation.console.demo.demo_accounts import Person
    from federation.console.demo.plan import DemoPlan

_ADDRESS = "127.0.0.1"
_PATIENCE_SECONDS = 20.0  # for a child to end by itself


def demo(
    folder: Annotated[
        Path, typer.Option(help="Folder of the demo; it goes on where one is.")
    ] = Path("runs/console-demo"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    password_file: Annotated[
        Path | None,
        typer.Option(help="Write names and passwords here (mode 600) and not on the terminal."),
    ] = None,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Make everything, serve nothing.")
    ] = False,
    patients: Annotated[
        int | None,
        typer.Option(min=4, help="Of each hospital's history; fewer are faster and worse."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Of each training.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.05, help="Between two deliveries of new images.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="Backbone of the first model: lenet is the fastest.")
    ] = None,
) -> None:
    """Try the clinicians' console: made patients, three hospitals, one organ that nobody has named.

    Ctrl-C ends it with all its processes; the same command goes on.
    """
    from federation.console.demo.demo_accounts import as_lines
    from federation.console.demo.plan import DemoPlan
    from federation.console.demo.prepare import prepare
    from federation.console.settings import write_private

    plan = _plan(
        DemoPlan(),
        {"patients": patients, "rounds": rounds, "first_rounds": rounds, "seconds": seconds},
        network,
    )
    if password_file is not None and password_file.exists():
        fail(
            f"--password-file is {password_file}, which is there already; name a new one, or leave it out where the people are made"
        )
    if not prepare_only:
        _check_port(port)
    again = f"fedka console demo --folder {folder}"
    try:
        with _ending_children():
            with _bars() as tell:
                people = prepare(folder, plan, tell)
            if people and password_file is not None:
                write_private(password_file.absolute(), as_lines(people).encode())
                typer.echo(f"names and passwords: {password_file}")
            else:
                _show(people, folder)
            if prepare_only:
                typer.echo(f"prepared; serve it with: {again}")
                return
            with _delivering(plan, folder):
                serve(folder, _ADDRESS, port, with_intake=True)
    except KeyboardInterrupt:
        pass
    typer.echo(f"stopped, with all processes; go on with: {again}")


def _plan(usual: "DemoPlan", changes: Mapping[str, Any], network: str | None) -> "DemoPlan":
    plan = replace(usual, **{name: value for name, value in changes.items() if value is not None})
    return plan if network is None else replace(plan, network={**plan.network, "backbone": network})


def _interrupt(number: int, frame: "FrameType | None") -> None:
    raise KeyboardInterrupt


def _check_port(port: int) -> None:
    """Say before the preparation that a port is taken, not after it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_ADDRESS, port))
        except OSError as error:
            fail(
                f"--port is {port}, which cannot be had ({error.strerror}); choose another one, or 0 for a free one"
            )


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show what is prepared, one bar for each step; where there is no terminal, one line for each step."""
    from rich.console import Console

    from federation.experiment.progress import bars

    console, tasks = Console(stderr=True), {}
    with bars(console) as progress:

        def tell(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=of)
                if not console.is_terminal:
                    console.print(what)
            progress.update(tasks[what], completed=done, total=of)

        yield tell


def _show(people: "list[Person]", folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    if not people:
        typer.echo(
            f"the people are made already; a new password: fedka users password {folder} NAME; names: fedka users list {folder}"
        )
        return
    table = Table(title="People of the demo: the passwords are shown this once")
    for column in ("user", "password", "role", "hospital"):
        table.add_column(column, overflow="fold")
    for each in people:
        table.add_row(each.user, each.password, each.role.value, each.hospital or "-")
    Console().print(table)


@contextmanager
def _delivering(plan: "DemoPlan", folder: Path) -> Iterator[None]:
    """Scans stream in, from a thread of their own."""
    from federation.console.demo.deliveries import Deliveries
    from federation.console.settings import load_settings

    stop = threading.Event()
    sender = threading.Thread(
        target=Deliveries(plan, load_settings(folder)).stream,
        args=(stop,),
        name="deliveries",
        daemon=True,
    )
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join()


@contextmanager
def _ending_children() -> Iterator[None]:
    """End every process that was started below this one, a training too, which the next start begins again; SIGTERM is as Ctrl-C."""
    import psutil

    others = set(psutil.Process().children(recursive=True))
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        left = {
            each
            for each in set(psutil.Process().children(recursive=True)) - others
            if not _goes_with_us(each)
        }
        for each in left:
            _quietly(each.terminate)
        for each in psutil.wait_procs(left, _PATIENCE_SECONDS)[1]:
            _quietly(each.kill)
        signal.signal(signal.SIGTERM, before)


def _goes_with_us(process: "psutil.Process") -> bool:
    """Multiprocessing's own helper takes no notice of signals, and ends when we do."""
    import psutil

    try:
        return any("multiprocessing.resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False


def _quietly(end: Callable[[], None]) -> None:
    import psutil

    with suppress(psutil.NoSuchProcess):
        end()
