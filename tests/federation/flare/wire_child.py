"""Runs a deployment in a network of its own.

One hospital through a proxy that keeps every byte, in both directions.

python wire_child.py DEPLOYMENT PROXIED FOLDER    FOLDER/<number>.up and .down: what each connection
carried
"""

import socket
import sys
import threading
from contextlib import suppress
from itertools import count
from pathlib import Path

from federation.flare.local_processes import Processes, bring_loopback_up
from federation.flare.provisioning import Deployment
from federation.flare.supervisor import Supervisor

PORT, PROXY_PORT = 8102, 9102


def carry(source: socket.socket, target: socket.socket, kept: Path) -> None:
    with kept.open("wb", buffering=0) as file, suppress(OSError):
        while piece := source.recv(65536):
            file.write(piece)
            target.sendall(piece)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def serve(listener: socket.socket, folder: Path) -> None:
    for number in count():
        near, _ = listener.accept()
        try:
            far = socket.create_connection(("localhost", PORT))
        except OSError:  # the server is not up yet
            near.close()
            continue
        for source, target, name in ((near, far, "up"), (far, near, "down")):
            threading.Thread(
                target=carry, args=(source, target, folder / f"{number}.{name}"), daemon=True
            ).start()


def main(deployment: Path, proxied: str, folder: Path) -> None:
    bring_loopback_up()
    made = Deployment(deployment)
    config = made.hospital(proxied) / "startup" / "fed_client.json"
    config.write_text(config.read_text().replace(f"localhost:{PORT}", f"localhost:{PROXY_PORT}"))
    listener = socket.create_server(("localhost", PROXY_PORT))
    threading.Thread(target=serve, args=(listener, folder), daemon=True).start()
    kits = {
        "server": made.server,
        **{name: made.hospital(name) for name in made.place.config.hospitals},
    }
    processes = Processes(kits, deployment / "logs")
    processes.start()
    try:
        Supervisor(made, processes.watch).run()
    finally:
        processes.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
