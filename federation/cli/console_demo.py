"""``fedka console demo``: a console with three invented hospitals that receive phantom scans."""

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
_GRACE_SECONDS = 20.0  # for a child to end by itself


def demo(
    folder: Annotated[
        Path, typer.Option(help="Folder of the demo; an existing one is continued.")
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
        typer.Option(min=4, help="Patients per hospital at the start; fewer are faster and worse."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of each training.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.05, help="Pause between two deliveries of new images.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="Backbone of the first model: lenet is the fastest.")
    ] = None,
) -> None:
    """Try the clinicians' console: invented patients, three hospitals, one unnamed organ.

    Ctrl-C ends it with all its processes; the same command continues it.
    """
    from federation.console.demo.demo_accounts import password_lines
    from federation.console.demo.plan import DemoPlan
    from federation.console.demo.prepare import prepare
    from federation.console.files import write_private

    plan = _plan(
        DemoPlan(),
        {"patients": patients, "rounds": rounds, "first_rounds": rounds, "seconds": seconds},
        network,
    )
    if password_file is not None and password_file.exists():
        fail(
            f"--password-file is {password_file}, which is there already; "
            "name a new one, or leave it out if the accounts exist"
        )
    if not prepare_only:
        _check_port(port)
    command = f"fedka console demo --folder {folder}"
    try:
        with _terminating_children():
            with _progress_bars() as report:
                people = prepare(folder, plan, report)
            if people and password_file is not None:
                write_private(password_file.absolute(), password_lines(people).encode())
                typer.echo(f"names and passwords: {password_file}")
            else:
                _show_passwords(people, folder)
            if prepare_only:
                typer.echo(f"prepared; serve it with: {command}")
                return
            with _deliveries_in_background(plan, folder):
                serve(folder, _ADDRESS, port, with_intake=True)
    except KeyboardInterrupt:
        pass
    typer.echo(f"stopped, with all processes; go on with: {command}")


def _plan(usual: "DemoPlan", changes: Mapping[str, Any], network: str | None) -> "DemoPlan":
    plan = replace(usual, **{name: value for name, value in changes.items() if value is not None})
    return plan if network is None else replace(plan, network={**plan.network, "backbone": network})


def _interrupt(number: int, frame: "FrameType | None") -> None:
    raise KeyboardInterrupt


def _check_port(port: int) -> None:
    """Fail before the long preparation if the port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_ADDRESS, port))
        except OSError as error:
            fail(
                f"--port is {port}, which cannot be used ({error.strerror}); "
                "choose another one, or 0 for a free one"
            )


@contextmanager
def _progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a callback that shows one progress bar per step; one line without a terminal."""
    from rich.console import Console

    from federation.experiment.progress import bars

    console, tasks = Console(stderr=True), {}
    with bars(console) as progress:

        def report(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=of)
                if not console.is_terminal:
                    console.print(what)
            progress.update(tasks[what], completed=done, total=of)

        yield report


def _show_passwords(people: "list[Person]", folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    if not people:
        typer.echo(
            f"the accounts exist already; names: fedka users list {folder}; "
            f"a new password: fedka users password {folder} NAME"
        )
        return
    table = Table(title="People of the demo: the passwords are shown this once")
    for column in ("user", "password", "role", "hospital"):
        table.add_column(column, overflow="fold")
    for each in people:
        table.add_row(each.user, each.password, each.role.value, each.hospital or "-")
    Console().print(table)


@contextmanager
def _deliveries_in_background(plan: "DemoPlan", folder: Path) -> Iterator[None]:
    """Send new scans from a thread."""
    from federation.console.demo.deliveries import Deliveries
    from federation.console.settings import load_settings

    stop = threading.Event()
    sender = threading.Thread(
        target=Deliveries(plan, load_settings(folder)).send_until,
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
def _terminating_children() -> Iterator[None]:
    """End all child processes on exit, also trainings, and handle SIGTERM like Ctrl-C.

    The next start begins an ended training again.
    """
    import psutil

    others = set(psutil.Process().children(recursive=True))
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        children = set(psutil.Process().children(recursive=True)) - others
        left = [each for each in children if not _is_resource_tracker(each)]
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.terminate()
        for each in psutil.wait_procs(left, _GRACE_SECONDS)[1]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        signal.signal(signal.SIGTERM, before)


def _is_resource_tracker(process: "psutil.Process") -> bool:
    """Return whether a process is multiprocessing's helper, which ends with its parent."""
    import psutil

    try:
        return any("multiprocessing.resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False
