"""Processes of a deployment: the command of a kit, and all of them on one machine.

On one machine everything runs in a network of its own (Linux: ``unshare``), because FLARE's server
listens on all addresses, and in a process namespace of its own, so that nothing is left behind
whichever way it ends. What dies is started again, as systemd does.
"""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from federation.flare.provisioning import DeployError

_UP, _GET_FLAGS, _SET_FLAGS = 1, 0x8913, 0x8914  # of a network device: see netdevice(7)
_RESTART_SECONDS = 1.0


def kit_command(kit: Path) -> list[str]:
    """Return the command that runs a kit in the foreground.

    Raises:
        DeployError: If the folder is no kit of a server or a hospital.
    """
    startup = kit / "startup"
    if (startup / "fed_server.json").exists():
        what, name, more = "server.server_train", "fed_server.json", []
    elif (startup / "fed_client.json").exists():
        what, name, more = "client.client_train", "fed_client.json", [f"uid={kit.name}"]
    else:
        raise DeployError(
            f"{kit} is no start-up kit of a server or a hospital; make kits with fedka deploy init"
        )
    place = str(kit.resolve())
    settings = ["secure_train=true", *more, "org=federation", "config_folder=config"]
    return [
        sys.executable,
        "-u",
        "-m",
        f"nvflare.private.fed.app.{what}",
        "-m",
        place,
        "-s",
        name,
        "--set",
        *settings,
    ]


def kit_environment() -> dict[str, str]:
    """Return the environment in which a kit runs.

    Few memory arenas, and nothing is imported from the folder that a kit lies in.
    """
    return {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", **os.environ, "PYTHONSAFEPATH": "1"}


def isolated(command: Sequence[str]) -> list[str]:
    """Return a command that runs in a network and a process namespace of its own.

    Raises:
        DeployError: Where the machine has no such thing.
    """
    tool = shutil.which("unshare")
    base = ["--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
    for more in ([], ["--user", "--map-root-user"]):
        if (
            tool
            and subprocess.run(
                [tool, *more, *base, "true"], capture_output=True, check=False
            ).returncode
            == 0
        ):
            return [tool, *more, *base, *command]
    raise DeployError(
        "this machine gives no network namespace (unshare), and FLARE's server would listen on all "
        "its addresses; allowed: Linux with "
        "namespaces; or run the processes yourself behind a firewall: fedka deploy start KIT for "
        "each, then fedka deploy run"
    )


def bring_loopback_up() -> None:
    """Switch on the loopback device of a fresh network namespace.

    It is all that this network has.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("16xh", fcntl.ioctl(probe, _GET_FLAGS, request))
        fcntl.ioctl(probe, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


@dataclass
class Processes:
    """The kits of a deployment as processes of this machine.

    Args:
        kits: Name -> kit.
        logs: Folder of their output.
    """

    kits: Mapping[str, Path]
    logs: Path
    _running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    _ended: dict[str, float] = field(default_factory=dict)

    def start(self) -> None:
        """Start all."""
        self.logs.mkdir(parents=True, exist_ok=True)
        for name in self.kits:
            self._start(name)

    def watch(self) -> list[str]:
        """Start again what has died; return its names."""
        died = []
        for name, process in self._running.items():
            if process.poll() is not None:
                self._ended.setdefault(name, time.monotonic())
                if time.monotonic() - self._ended[name] >= _RESTART_SECONDS:
                    del self._ended[name]
                    self._start(name)
                    died.append(name)
        return died

    def stop(self) -> None:
        """End all, and what they have started."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()

    def _start(self, name: str) -> None:
        kit = self.kits[name]
        with (self.logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                kit_command(kit),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=kit,
                env=kit_environment(),
            )
