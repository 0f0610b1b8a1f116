"""``fedka deploy`` and ``fedka status``: hospitals on many machines, and where they stand."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from federation.cli import fail

if TYPE_CHECKING:
    from federation.flare.server import ServerPlace

app = typer.Typer(no_args_is_help=True)

_INIT_EXAMPLES = """
Examples:

  fedka deploy init hospital_configs/organa_deploy --out runs/federation

  fedka deploy init hospital_configs/organa_deploy --out runs/federation --host fedka.example.org

  fedka deploy init my_experiment --out runs/federation --own-images
"""
_UP_EXAMPLES = """
Examples:

  fedka deploy up runs/federation --local

In another terminal: fedka status runs/federation
"""

Folder = Annotated[
    Path, typer.Argument(help="Folder of the deployment, as fedka deploy init made it.")
]


@app.callback()
def needed() -> None:
    """Hospitals on many machines: make kits, check them, start sites, run."""
    from importlib.util import find_spec

    if find_spec("nvflare") is None:
        fail(
            "a deployment runs over NVIDIA FLARE, which is not installed; pip install "
            "'fedka[flare]'"
        )


@app.command()
def init(
    experiment: Annotated[
        Path,
        typer.Argument(help="Folder that holds experiment.yaml; its hospitals become the sites."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the deployment; must be new.")],
    host: Annotated[
        str,
        typer.Option(
            help="The server's host name, as hospitals reach it; it stands in its certificate."
        ),
    ] = "localhost",
    port: Annotated[int, typer.Option(help="The server's one port.")] = 8102,
    minimum: Annotated[int, typer.Option(help="Fewest hospitals that must answer in a round.")] = 1,
    deadline: Annotated[
        float, typer.Option(help="Seconds that a stage of a round waits for the slowest hospital.")
    ] = 600.0,
    metrics_port: Annotated[
        int, typer.Option(help="Port of health and metrics on the server's machine; 0: none.")
    ] = 9102,
    own_images: Annotated[
        bool,
        typer.Option(
            "--own-images",
            help="Hospitals bring mirrors, filled by fedka console intake; kits hold no images.",
        ),
    ] = False,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of the experiment: path.to.key=value."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="FEDKA_DATA", help="Folder with your own data files.")
    ] = None,
) -> None:
    """Make a deployment: certificates and a start-up kit for each site.

    Each hospital's images beside its own kit.
    """
    from rich.console import Console

    from federation.experiment.config import load_experiment
    from federation.flare.engine import LinkConfig
    from federation.flare.provisioning import init_deployment
    from federation.flare.server import ServerConfig

    config = load_experiment(experiment, change or [])
    link = LinkConfig(deadline_seconds=deadline, minimum_hospitals=minimum)
    data = None if data_dir is None else str(data_dir.resolve())
    server = ServerConfig(
        (), link, data=data, own_images=own_images, metrics_port=metrics_port or None
    )
    made = init_deployment(config, out, server, host=host, port=port, data_dir=data_dir)
    say = Console(highlight=False).print
    say(
        f"[green]made[/] {made.folder}: a server, an operator and {len(config.hospitals)} hospitals"
    )
    say(f"try it here  fedka deploy up {made.folder} --local")
    say(f"as services  {made.folder / 'manifests'}, docs/operations.md")
    say(f"[yellow]keep {made.authority} offline[/]: whoever has it can let anybody in")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A site's kit, or a whole deployment.")],
    bad: Annotated[bool, typer.Option("--bad", help="Show only what is not well.")] = False,
) -> None:
    """Verify certificates.

    Names, permissions, versions, files, space and reach before anything is started; exit code 2 on
    an error.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from federation.flare.deployment_check import check as look
    from federation.flare.deployment_check import is_fit

    findings = look(folder)
    table = Table("site", "what", "", "found", "allowed", "what to do")
    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    for each in findings:
        if not (bad and each.level == "ok"):
            rest = map(escape, (each.got, each.allowed, each.do))
            table.add_row(each.site, each.what, f"[{colours[each.level]}]{each.level}[/]", *rest)
    console = Console(highlight=False)
    console.print(table)
    counts = {level: sum(each.level == level for each in findings) for level in colours}
    console.print(f"{counts['error']} errors, {counts['warning']} warnings, {counts['ok']} ok")
    if not is_fit(findings):
        raise typer.Exit(2)


@app.command()
def add(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Of the hospital; the experiment plans it.")],
) -> None:
    """Make the kit of a planned hospital again, with a new key, by the same authority.

    The others stay as they are.
    """
    from rich.console import Console

    from federation.flare.add_hospital import add_hospital
    from federation.flare.provisioning import Deployment

    kit, public = add_hospital(Deployment(folder), name)
    say = Console(highlight=False).print
    say(f"[green]made[/] {kit}; hand it to {name} on a way that nobody else can read")
    say(
        f"every other hospital writes into its own hospital.yaml, at masking, pinned_keys: {name}: "
        f"{public}"
    )
    say(
        "[yellow]an older certificate of this hospital stays valid until it ends[/]; if its key "
        "was stolen, make a new deployment"
    )


@app.command()
def start(kit: Annotated[Path, typer.Argument(help="Kit of the server or of a hospital.")]) -> None:
    """Run one site in the foreground.

    What a service manager or a container starts on each machine.
    """
    from federation.flare.kit_settings import settle_stores
    from federation.flare.local_processes import kit_command, kit_environment

    command = kit_command(kit)
    settle_stores(kit)
    os.chdir(kit)
    os.execvpe(command[0], command, kit_environment())


@app.command()
def run(
    folder: Folder,
    metrics_host: Annotated[
        str,
        typer.Option(help="Address on which health and metrics are served; they have no password."),
    ] = "127.0.0.1",
    stay: Annotated[
        bool,
        typer.Option("--stay", help="Go on serving health and metrics when the run is finished."),
    ] = False,
) -> None:
    """Begin sessions until the run is finished; beside the server, with the operator's kit.

    Runs again where it was stopped.
    """
    from federation.flare.provisioning import Deployment
    from federation.flare.supervisor import Supervisor

    _supervise(Supervisor(Deployment(folder)), metrics_host, stay=stay)


@app.command()
def up(
    folder: Folder,
    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Server and hospitals as processes of this machine, in a network of their own.",
        ),
    ],
    inside: Annotated[bool, typer.Option("--inside", hidden=True)] = False,
) -> None:
    """Try a deployment on this machine: every site a process, over mutual TLS.

    What dies is started again. Ctrl-C ends all.
    """
    from federation.flare.local_processes import Processes, bring_loopback_up, isolated
    from federation.flare.provisioning import Deployment
    from federation.flare.supervisor import Supervisor

    if not local:
        fail(
            "up runs on this machine only: add --local; on many machines, run fedka deploy start "
            "KIT on each"
        )
    made = Deployment(folder.resolve())
    if not (made.server / "startup").is_dir():
        fail(
            f"{folder} is no deployment; make one: fedka deploy init hospital_configs/phantom_tiny "
            f"--out {folder}"
        )
    if not inside:
        command = isolated(
            [
                sys.executable,
                "-m",
                "federation",
                "deploy",
                "up",
                str(made.folder),
                "--local",
                "--inside",
            ]
        )
        os.execv(command[0], command)
    bring_loopback_up()
    kits = {
        "server": made.server,
        **{name: made.hospital(name) for name in made.place.config.hospitals},
    }
    processes = Processes(kits, made.folder / "logs")
    processes.start()
    try:
        _supervise(Supervisor(made, processes.watch))
    finally:
        processes.stop()


def _supervise(supervisor: object, metrics_host: str = "127.0.0.1", *, stay: bool = False) -> None:
    import logging
    import threading

    from rich.console import Console

    from federation.flare.health import serve_health
    from federation.flare.supervisor import Supervisor, SupervisorError

    assert isinstance(supervisor, Supervisor)
    say = Console(highlight=False).print
    feed = _Follow(supervisor.place.folder)
    watched = supervisor.idle

    def idle() -> None:
        watched()
        for line in feed.new():
            say(line, markup=False)

    supervisor.idle = idle
    logging.getLogger("nvflare").setLevel(
        logging.CRITICAL
    )  # that the server is away is seen here, and waited for
    try:
        with serve_health(
            supervisor.place,
            supervisor.place.folder.parent,
            lambda: supervisor.sessions,
            metrics_host,
        ):
            status = supervisor.run()
            idle()
            _publish(supervisor.place, say)
            if stay:
                idle()
                say("finished; health and metrics are served until this is stopped")
                threading.Event().wait()
    except KeyboardInterrupt:
        say(
            "\n[yellow]interrupted[/]: every finished round is saved; run the same command again "
            "to go on"
        )
        raise typer.Exit(130) from None
    except SupervisorError as error:
        idle()
        fail(error)
    idle()
    say(
        f"finished {status.get('rounds_done')} rounds, accuracy {status.get('accuracy')}; the run "
        f"is {supervisor.place.run}"
    )


def _publish(place: "ServerPlace", say: Callable[..., None]) -> None:
    """Write the report of a finished run and bring MLflow up to date.

    A store that does not answer stops nothing.
    """
    from federation.report import write_report
    from federation.tracking import RunMirror

    say(f"report {write_report(place.run)}")
    RunMirror(place.experiment.tracking, place.run, lambda text: say(f"[yellow]{text}[/]")).finish()


class _Follow:
    """Gives the sentences of a feed as they come."""

    def __init__(self, folder: Path) -> None:
        from federation.flare.event_feed import FEED

        self._path = folder / FEED
        self._at = self._path.stat().st_size if self._path.exists() else 0

    def new(self) -> list[str]:
        import json

        if not self._path.exists():
            return []
        with self._path.open("rb") as lines:
            lines.seek(self._at)
            raw = lines.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        self._at += len(whole)
        return [
            f"{event['at'][11:19]}  {event['text']}"
            for event in map(json.loads, whole.splitlines())
        ]


def status(folder: Folder, last: Annotated[int, typer.Option(help="Events to show.")] = 8) -> None:
    """Show where a deployment stands: round, hospitals, who answered, who is suspect."""
    from rich.console import Console
    from rich.table import Table

    from federation.flare.event_feed import read_feed, read_status
    from federation.flare.provisioning import Deployment

    place = Deployment(folder).place.folder
    stand = read_status(place)
    console = Console(highlight=False)
    if not stand:
        fail(
            f"{folder} has not run yet; begin with fedka deploy up {folder} --local, or fedka "
            f"deploy run {folder}"
        )
    accuracy = stand.get("accuracy")
    console.print(
        f"{stand.get('experiment', '')}: "
        f"[bold]{stand.get('state')}[/]{': ' + stand['reason'] if stand.get('reason') else ''}\n"
        f"rounds   {stand.get('rounds_done', 0)} of {stand.get('num_rounds', '?')}\n"
        f"accuracy {'-' if accuracy is None else format(accuracy, '.3f')} over "
        f"{stand.get('num_classes', 0)} classes\n"
        f"updated  {stand.get('updated', '-')}"
    )
    table = Table("hospital", "state", "last round", "reason")
    colours = {"present": "green", "suspect": "red", "faulty": "yellow"}
    for name, each in stand.get("hospitals", {}).items():
        state = each.get("state", "")
        table.add_row(
            name,
            f"[{colours.get(state, 'dim')}]{state}[/]",
            str(each.get("last_round", "-")),
            each.get("reason", ""),
        )
    console.print(table)
    for event in read_feed(place, last):
        console.print(f"{event['at'][11:19]}  {event['text']}", markup=False)


init.__doc__ = f"{init.__doc__}\n{_INIT_EXAMPLES}"
up.__doc__ = f"{up.__doc__}\n{_UP_EXAMPLES}"
