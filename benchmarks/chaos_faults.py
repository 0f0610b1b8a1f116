"""Injects faults into a deployment on this machine and undoes them.

Runs on Linux in a mount and process namespace of its own (see ``chaos``). Killing and stopping are
signals to every process of a kit. A cut connection drops packets silently: in the deployment's
network namespace, routing rules (``ip rule``) turn the ports of a hospital's connections into black
holes, without a reset on either side. Each kit is on a small tmpfs that can be filled completely.
"""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from federation.flare.hospital_site import OWN_FOLDER
from federation.flare.provisioning import Deployment

DISK_MEGABYTES = 64
# Priorities of routing rules: dropping comes before local delivery.
_DROPPED, _LOCAL = "5", "10"
_PARENTS = ("client.client_train", "server.server_train")


@dataclass(frozen=True)
class DeploymentAccess:
    """Access to a deployment that runs on this machine.

    Args:
        deployment: Its folders.
        root: Process id of ``fedka deploy up``.
        port: Port of the server.
    """

    deployment: Deployment
    root: int
    port: int

    def kit(self, name: str) -> Path:
        """Return the kit of a hospital; an empty name is the server's."""
        return self.deployment.hospital(name) if name else self.deployment.server

    def processes(self, name: str, jobs_only: bool = False) -> list[psutil.Process]:
        """Return the living processes of a site: parent and jobs, or jobs only."""
        place, found = str(self.kit(name).resolve()), []
        for process in psutil.Process(self.root).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                line = process.cmdline()
                if place in line and not (
                    jobs_only and any(each.endswith(_PARENTS) for each in line)
                ):
                    found.append(process)
        return found

    def in_network(self, *command: str) -> int:
        """Run a command in the deployment's network namespace and return its exit code."""
        inside = next(each for each in psutil.Process(self.root).children(recursive=True))
        return subprocess.run(
            ["nsenter", f"--net=/proc/{inside.pid}/ns/net", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        ).returncode


# Yields a description of what was hit (empty: nothing); the fault ends when the context is left.
FaultContext = AbstractContextManager[str]


@contextmanager
def killed(grip: DeploymentAccess, names: Sequence[str], jobs_only: bool = False) -> Iterator[str]:
    """Kill all processes of sites at once, as a power cut does, or their jobs only."""
    processes = [each for name in names for each in grip.processes(name, jobs_only)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    yield f"{len(processes)} processes killed" if processes else ""


@contextmanager
def slow(grip: DeploymentAccess, names: Sequence[str]) -> Iterator[str]:
    """Stop all processes of sites and resume them later."""
    held = [each for name in names for each in grip.processes(name)]
    for process in held:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield f"{len(held)} processes stopped" if held else ""
    finally:
        for process in held:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@contextmanager
def network_down(grip: DeploymentAccess, names: Sequence[str]) -> Iterator[str]:
    """Take down the deployment's only network device."""
    failed = grip.in_network("ip", "link", "set", "lo", "down")
    try:
        yield "" if failed else "the network's only device is down"
    finally:
        grip.in_network("ip", "link", "set", "lo", "up")


@contextmanager
def cut_off(grip: DeploymentAccess, names: Sequence[str]) -> Iterator[str]:
    """Drop all packets between sites and the server, on existing and on new connections."""
    over, dropped = threading.Event(), set[int]()
    # in place of the kernel's own rule, which comes before all others
    grip.in_network("ip", "rule", "add", "pref", _LOCAL, "lookup", "local")
    grip.in_network("ip", "rule", "del", "pref", "0")

    def drop() -> None:
        for port in {
            port for name in names for port in ports_to(grip.port, grip.processes(name))
        } - dropped:
            for side in ("sport", "dport"):
                grip.in_network(
                    "ip",
                    "rule",
                    "add",
                    "pref",
                    _DROPPED,
                    "ipproto",
                    "tcp",
                    side,
                    str(port),
                    "blackhole",
                )
            dropped.add(port)

    def go_on_dropping() -> None:
        while not over.wait(0.05):
            with suppress(psutil.NoSuchProcess):
                drop()

    drop()
    keeper = threading.Thread(target=go_on_dropping, daemon=True)
    keeper.start()
    try:
        yield f"{len(dropped)} connections cut, and every new one" if dropped else ""
    finally:
        over.set()
        keeper.join()
        while grip.in_network("ip", "rule", "del", "pref", _DROPPED) == 0:
            pass


def ports_to(port: int, processes: Sequence[psutil.Process]) -> set[int]:
    """Return the local ports from which processes are connected to a port."""
    found = set()
    for process in processes:
        with suppress(OSError):
            root = Path(f"/proc/{process.pid}")
            sockets = {str(each.readlink()) for each in (root / "fd").iterdir()}
            for table in ("tcp", "tcp6"):
                for line in (root / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
                    own, other, *_ = line.split()[1:]
                    if (
                        int(other.rpartition(":")[2], 16) == port
                        and f"socket:[{line.split()[9]}]" in sockets
                    ):
                        found.add(int(own.rpartition(":")[2], 16))
    return found


@contextmanager
def full_disk(grip: DeploymentAccess, names: Sequence[str]) -> Iterator[str]:
    """Fill the disks of hospitals to the last byte."""
    fillers = [grip.kit(name) / "filler" for name in names]
    try:
        written = sum(map(_fill, fillers))
        yield f"the last {written / 1e6:.1f} MB taken"
    finally:
        for filler in fillers:
            filler.unlink(missing_ok=True)


def _fill(place: Path) -> int:
    """Write until the disk is full and return the number of bytes written."""
    with place.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
        return file.tell()


@contextmanager
def damaged_state(grip: DeploymentAccess, names: Sequence[str]) -> Iterator[str]:
    """Cut the newest state file of twins in half, as a bad disk does."""
    hit = []
    for name in names:
        newest = newest_state(grip.kit(name) / OWN_FOLDER / "state", name)
        if newest is not None:
            os.truncate(newest, newest.stat().st_size // 2)
            hit.append(f"{newest.name} of {name} cut in half")
    yield ", ".join(hit)


def newest_state(states: Path, name: str) -> Path | None:
    """Return the newest complete state file of a twin, from any run."""
    files = [
        each
        for each in states.glob(f"*/{name}/*.safetensors")
        if each.name.count(".") == 1 and not each.name.startswith(".")
    ]
    return max(files, key=lambda each: each.name, default=None)


FAULTS: Mapping[str, Callable[[DeploymentAccess, Sequence[str]], FaultContext]] = {
    "hospital killed": killed,
    "two hospitals killed": killed,
    "server killed": lambda grip, names: killed(grip, ("",)),
    "hospital's job killed": lambda grip, names: killed(grip, names, jobs_only=True),
    "server's job killed": lambda grip, names: killed(grip, ("",), jobs_only=True),
    "slow hospital": slow,
    "hospital cut off": cut_off,
    "network down": network_down,
    "full disk": full_disk,
    "damaged state": damaged_state,
}


@contextmanager
def own_disks(kits: Sequence[Path]) -> Iterator[None]:
    """Move each kit to a small disk of its own, and back afterwards."""
    for kit in kits:
        beside = kit.with_name(f".{kit.name}")
        kit.rename(beside)
        kit.mkdir(mode=0o700)
        options = f"size={DISK_MEGABYTES}m,mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "fedka-chaos", str(kit)], check=True)
        shutil.copytree(beside, kit, dirs_exist_ok=True)
        shutil.rmtree(beside)
    try:
        yield
    finally:
        for kit in kits:
            beside = kit.with_name(f".{kit.name}")
            shutil.copytree(
                kit,
                beside,
                symlinks=True,
                ignore=shutil.ignore_patterns("filler"),
                ignore_dangling_symlinks=True,
            )
            subprocess.run(["umount", "--lazy", str(kit)], check=True)
            kit.rmdir()
            beside.rename(kit)
