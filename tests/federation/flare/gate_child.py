"""Runs in a network of its own.

One server of a deployment, one right hospital, and those who must not get in. Writes what it saw.

python gate_child.py FOLDER          FOLDER/kits.json: name -> kit; FOLDER/jobs/<name>: jobs to
submit; writes FOLDER/seen.json python gate_child.py session KIT     asks for an operator's session
and says who is connected
"""

import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from nvflare.fuel.flare_api.flare_api import new_secure_session

from federation.flare.handshake_timeouts import limit_handshakes
from federation.flare.local_processes import bring_loopback_up, kit_command, kit_environment

PATIENCE_SECONDS = 200.0
OPERATOR = "operator@federation.org"
PORT = 8102
SESSION_SECONDS = 30.0


def start(name: str, kit: Path, logs: Path) -> "subprocess.Popen[bytes]":
    with (logs / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            kit_command(kit), stdout=log, stderr=subprocess.STDOUT, cwd=kit, env=kit_environment()
        )


def until(is_so: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(Exception):
            found = is_so()
            if found:
                return found
        time.sleep(0.2)
    return None


def listens() -> bool:
    with socket.create_connection(("localhost", PORT), 1):
        return True


def knock(context: ssl.SSLContext | None) -> str:
    """Connect, say something, and return how it went."""
    with socket.create_connection(("localhost", PORT), 5) as plain:
        plain.settimeout(3)
        try:
            wire = (
                plain
                if context is None
                else context.wrap_socket(plain, server_hostname="localhost")
            )
            wire.sendall(b"hello, here is a hospital" * 4)
            return f"answered {wire.recv(1000)!r}"
        except TimeoutError:
            return "open"
        except OSError as error:
            return f"{type(error).__name__}: {error}"


def tls(authority: Path, certificate: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority))
    context.check_hostname = False
    if certificate is not None:
        context.load_cert_chain(
            certificate / "startup" / "client.crt", certificate / "startup" / "client.key"
        )
    return context


def session_of(kit: Path) -> Any:
    limit_handshakes()
    return new_secure_session(OPERATOR, str(kit), timeout=5.0)


def refusal_of(what: Callable[[], Any]) -> str:
    try:
        return f"let in: {what()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def asked_for_session(kit: Path, log: Path) -> str:
    """Ask for a session in a process of its own, as FLARE may hang where it is refused.

    Return what it said.
    """
    command = [sys.executable, __file__, "session", str(kit)]
    with suppress(subprocess.TimeoutExpired), log.open("w") as out:
        subprocess.run(
            command, stdout=out, stderr=subprocess.STDOUT, timeout=SESSION_SECONDS, check=False
        )
    return log.read_text()


def run_job(session: Any, folder: Path) -> dict[str, str]:
    """Submit a job and wait until it has ended, or was refused."""
    try:
        job_id = session.submit_job(str(folder))
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    meta = until(
        lambda: str(session.get_job_meta(job_id).get("status", "")).startswith(
            ("FINISHED", "FAILED")
        ),
        60,
    )
    if not meta:
        with suppress(Exception):
            session.abort_job(job_id)
    return {"meta": json.dumps(session.get_job_meta(job_id), default=str), "job_id": job_id}


def main(folder: Path) -> None:
    bring_loopback_up()
    kits = {name: Path(kit) for name, kit in json.loads((folder / "kits.json").read_text()).items()}
    server, right, operators = (
        kits.pop("server"),
        kits["right"],
        {each: kits.pop(each) for each in list(kits) if "operator" in each},
    )
    seen: dict[str, Any] = {}
    running = [start("server", server, folder)]
    try:
        seen["listens"] = until(listens)
        silent = [
            socket.create_connection(("localhost", PORT)) for _ in range(8)
        ]  # who say nothing, and stay
        running += [start(name, kit, folder) for name, kit in kits.items()]
        root = right / "startup" / "rootCA.pem"
        seen["plain TCP"] = knock(None)
        seen["TLS without a certificate"] = knock(tls(root))
        seen["TLS with a self-signed certificate"] = knock(tls(root, kits["self-signed"]))
        seen["TLS with another authority's certificate"] = knock(tls(root, kits["foreign"]))
        seen["TLS with an expired certificate"] = knock(tls(root, kits["expired"]))
        seen["TLS with the right certificate"] = knock(tls(root, right))
        session = until(lambda: session_of(operators["operator"]))
        assert session is not None, "the right operator gets no session"
        seen["joined"] = until(lambda: [each.name for each in session.get_connected_client_list()])
        for name, kit in operators.items():
            seen[name] = asked_for_session(kit, folder / f"{name}.log")
        for job in sorted((folder / "jobs").iterdir()):
            seen[job.name] = run_job(session, job)
        for command in (
            "cat north startup/fed_client.json",
            "ls north",
            "sys_info client north",
            "cat server startup/fed_server.json",
        ):
            seen[command] = refusal_of(lambda: session.api.do_command(command))  # noqa: B023
        seen["clients"] = [each.name for each in session.get_connected_client_list()]
        session.close()
        for each in silent:
            each.close()
    finally:
        (folder / "seen.json").write_text(json.dumps(seen, indent=1, default=str))
        for process in running:
            process.kill()
        for process in running:
            process.wait()


if __name__ == "__main__":
    if sys.argv[1] == "session":
        names = [each.name for each in session_of(Path(sys.argv[2])).get_connected_client_list()]
        sys.stdout.write(f"has a session and sees {names}")
    else:
        main(Path(sys.argv[1]))
