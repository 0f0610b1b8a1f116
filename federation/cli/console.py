"""``fedka console``, ``fedka users`` and ``fedka audit``: the console on the command line.

Large packages are imported inside the functions that use them, so that ``--help`` is fast.
"""

import getpass
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from federation.cli import fail

if TYPE_CHECKING:
    from types import FrameType

    from federation.console.settings import ConsoleSettings
    from twin.review.accounts import Accounts
    from twin.review.audit import AuditLog

app = typer.Typer(no_args_is_help=True)
users = typer.Typer(no_args_is_help=True)
audit = typer.Typer(no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="The console's folder.", envvar="FEDKA_CONSOLE")]
User = Annotated[str, typer.Argument(help="Name of the account.")]
FromStdin = Annotated[
    bool,
    typer.Option(
        "--password-stdin", help="Read the password from standard input instead of the terminal."
    ),
]
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    hospital: Annotated[list[str], typer.Option(help="Id of a hospital; once for each.")],
    name: Annotated[str, typer.Option(help="What the pages call the federation.")] = "Federation",
    host: Annotated[
        list[str] | None, typer.Option(help="Further host name under which the console answers.")
    ] = None,
    http: Annotated[
        bool,
        typer.Option(
            "--http", help="Cookies over plain http: only for a demo on this very machine."
        ),
    ] = False,
) -> None:
    """Make a console's folder: settings, key, and a place for each hospital.

    Example: [bold]fedka console init console --hospital north --hospital south[/]
    """
    import pydantic

    from federation.console.settings import ConsoleSettings, SettingsError, make_folder

    plain = {"federation_name": name, "hospitals": hospital, "secure_cookies": not http}
    plain |= {"trusted_hosts": ["localhost", "127.0.0.1", *(host or [])]}
    try:
        settings = pydantic.TypeAdapter(ConsoleSettings).validate_python(
            {**plain, "folder": folder.absolute()}
        )
    except pydantic.ValidationError as error:
        raise SettingsError(
            "; ".join(str(each["msg"]).removeprefix("Value error, ") for each in error.errors())
        ) from error
    make_folder(settings, plain)
    typer.echo(
        f"made {folder}: add users with `fedka users add {folder} NAME --role ...`, "
        f"then `fedka console serve {folder}`"
    )


@app.command()
def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Interface to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8321,
    with_intake: Annotated[
        bool,
        typer.Option("--with-intake", help="Also take images in, for all hospitals: for a demo."),
    ] = False,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate, for https without a proxy.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file with its key.")] = None,
) -> None:
    """Serve pages and API until Ctrl-C.

    A running training goes on and is found again at the next start.
    """
    import uvicorn

    from federation.console.app import make_app, make_services

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("fedka.console").setLevel(logging.INFO)
    settings = _settings(folder)
    if host not in _LOOPBACK and not settings.secure_cookies:
        fail(
            f"--host is {host} and secure_cookies is off: passwords would cross the network "
            "in the clear; allowed: 127.0.0.1, or https"
        )
    services = make_services(settings)
    config = uvicorn.Config(
        make_app(settings, services),
        host=host,
        port=port,
        access_log=False,  # our own log names no person and no image
        server_header=False,
        proxy_headers=False,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
    listening = config.bind_socket()
    listening.listen()  # a client that connects at once waits instead of being refused
    scheme = "https" if certificate else "http"
    name = f"[{host}]" if ":" in host else host
    typer.echo(f"console: {scheme}://{name}:{listening.getsockname()[1]}/  (Ctrl-C ends it)")
    if settings.secure_cookies and not certificate:
        typer.echo(
            "note: cookies travel over https alone; "
            "put a proxy with TLS in front, or give --certificate and --key",
            err=True,
        )
    command = [sys.executable, "-m", "federation", "console", "intake", str(folder)]
    with _child_process(command) if with_intake else nullcontext():
        uvicorn.Server(config).run([listening])


@app.command()
def intake(
    folder: Folder,
    hospital: Annotated[
        list[str] | None, typer.Option(help="Only this hospital; may be repeated.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Pause between two passes.")] = 2.0,
) -> None:
    """Take images in and open cases of those that look new, until Ctrl-C. Runs beside `serve`."""
    from federation.console.hospital_loop import HospitalLoop, open_dicom_receivers, run_loops
    from twin.review.model_worker import ModelWorker
    from twin.review.store import ReviewStore

    settings = _settings(folder)
    unknown = sorted(set(hospital or ()) - set(settings.hospitals))
    if unknown:
        fail(f"--hospital is {', '.join(unknown)}; allowed: {', '.join(settings.hospitals)}")
    stop = threading.Event()

    def end(number: int, frame: "FrameType | None") -> None:
        stop.set()

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, end)
    store = ReviewStore(settings.review_url, anchor=settings.audit_anchor)
    with ExitStack() as stack:
        worker = stack.enter_context(ModelWorker(timeout_seconds=settings.explain_seconds))
        loops = [
            HospitalLoop(settings, each, store, worker) for each in hospital or settings.hospitals
        ]
        for name, port in open_dicom_receivers(settings, loops, stack).items():
            typer.echo(f"{name}: DICOM images are taken at port {port}")
        run_loops(loops, stop, seconds, lambda text: typer.echo(text, err=True))


@users.command("add")
def add_user(
    folder: Folder,
    user: User,
    role: Annotated[
        Literal["clinician", "approver", "operator", "auditor"],
        typer.Option(help="What the account is for."),
    ],
    hospital: Annotated[str | None, typer.Option(help="Of a clinician or approver.")] = None,
    password_stdin: FromStdin = False,
) -> None:
    """Make an account; the password is asked for on the terminal and never shown.

    Examples: [bold]fedka users add console ada --role clinician --hospital north[/],
    [bold]fedka users add console olu --role operator[/]
    """
    from twin.review.workflow import Role

    settings = _settings(folder)
    if hospital is not None and hospital not in settings.hospitals:
        fail(f"--hospital is {hospital!r}; allowed: {', '.join(settings.hospitals)}")
    account = _accounts(settings).add(user, _password(password_stdin), Role(role), hospital)
    place = f" of {account.hospital}" if account.hospital else ""
    typer.echo(f"added {account.user}: {account.role}{place}")


@users.command("list")
def list_users(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print plain data.")] = False,
) -> None:
    """List all accounts."""
    accounts = _accounts(_settings(folder)).list()
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in accounts], indent=1))
        return
    for each in accounts:
        state = "disabled" if each.disabled else "active"
        typer.echo(f"{each.user:20} {each.role:10} {each.hospital or '-':16} {state}")


@users.command("disable")
def disable_user(folder: Folder, user: User) -> None:
    """Disable an account and end its sessions."""
    _accounts(_settings(folder)).disable(user)
    typer.echo(f"disabled {user}")


@users.command("password")
def change_password(folder: Folder, user: User, password_stdin: FromStdin = False) -> None:
    """Set the password of an account and end its sessions."""
    accounts = _accounts(_settings(folder))
    accounts.get(user)  # fail on an unknown name before a password is typed
    accounts.set_password(user, _password(password_stdin))
    typer.echo(f"new password for {user}")


@audit.command()
def verify(folder: Folder) -> None:
    """Check the whole audit log; exit code 0: unchanged, 2: something was changed."""
    log = _audit(_settings(folder))
    faults = log.verify()
    if faults:
        fail("\n".join(each.what for each in faults))
    count, head = log.head()
    typer.echo(f"ok: {count} rows, last hash {head}; keep this line elsewhere to compare it later")


@audit.command()
def show(
    folder: Folder,
    page: Annotated[int, typer.Option(min=1, help="Page of 50 rows, newest first.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print plain data.")] = False,
) -> None:
    """Show a page of the audit log, newest first."""
    entries = _audit(_settings(folder)).entries(page)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in entries.items], indent=1))
        return
    for each in entries.items:
        facts = json.dumps(each.details, ensure_ascii=True)
        who = f"{each.actor} ({each.role}) {each.hospital or '-'}"
        typer.echo(f"{each.number:6} {each.at} {who} {each.what} {each.subject} {facts}")
    typer.echo(f"page {entries.page} of {entries.num_pages}, {entries.total} rows")


@contextmanager
def _child_process(command: list[str]) -> Iterator[None]:
    """Run a child process that is ended with this one, also by SIGTERM."""
    received: list[int] = []

    def end(number: int, frame: "FrameType | None") -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    process = subprocess.Popen(command)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
        signal.signal(signal.SIGTERM, before)
        for number in received:  # so that the exit status shows the signal
            signal.raise_signal(number)


def _settings(folder: Path) -> "ConsoleSettings":
    from federation.console.settings import load_settings

    return load_settings(folder)


def _accounts(settings: "ConsoleSettings") -> "Accounts":
    from twin.review.accounts import Accounts

    return Accounts(settings.review_url, anchor=settings.audit_anchor)


def _audit(settings: "ConsoleSettings") -> "AuditLog":
    from twin.review.audit import AuditLog

    return AuditLog(settings.review_url, anchor=settings.audit_anchor)


def _password(from_stdin: bool) -> str:
    """Return the password, typed twice without echo or read from standard input."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        fail(
            "there is no terminal to ask for the password; "
            "run it in one, or pipe the password in with --password-stdin"
        )
    first = getpass.getpass("Password (12 characters or more): ")
    if first != getpass.getpass("The same again: "):
        fail("the two passwords differ; nothing was changed")
    return first
