"""FLARE components of server and hospital, and the link between them.

A job carries no code and no setting: it names these two classes, which every site has installed,
and a site's allow-list names nothing else. What is run, and what may leave, stands in each site's
own folder beside its kit. One session is one job; FLARE's Collab API carries bytes, authenticated
by mutual TLS, and gives up a call at its deadline.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nvflare.collab import collab
from nvflare.collab.api.context import get_call_context, set_call_context

from federation.flare.hospital_site import OWN_FOLDER, HospitalSite
from federation.flare.server import ServerPlace, serve

CONTROLLER = "nvflare.collab.runtime.controller.CollabController"
EXECUTOR = "nvflare.collab.runtime.executor.CollabExecutor"


class FederationServer:
    """The server's half: runs one session of the experiment in its folder."""

    @collab.main  # type: ignore[untyped-decorator]  # the decorator is untyped
    def run(self) -> str:
        """Run until the session ends."""
        return serve(ServerPlace(_own_folder()), CollabLink())


class FederationHospital:
    """A hospital's half: hands requests to its site."""

    def __init__(self) -> None:
        self._site: HospitalSite | None = None

    @collab.init  # type: ignore[untyped-decorator]  # the decorator is untyped
    def open(self) -> None:
        """Read the hospital's own file."""
        self._site = HospitalSite(_own_folder())

    @collab.publish  # type: ignore[untyped-decorator]  # the decorator is untyped
    def answer(self, verb: str, content: bytes) -> bytes:
        """Answer one request; whatever goes wrong is an answer."""
        assert self._site is not None
        return self._site.answer(verb, content)


class CollabLink:
    """Records over FLARE's Collab calls, from inside the server's job."""

    def __init__(self) -> None:
        self._context = get_call_context()
        self._names = tuple(client.name for client in collab.clients)

    @property
    def hospitals(self) -> Sequence[str]:
        """Who belongs to this job."""
        return self._names

    def ask(
        self, verb: str, requests: Mapping[str, bytes], seconds: float
    ) -> Iterable[tuple[str, bytes | Exception]]:
        """Call all hospitals at once; each comes back once."""
        set_call_context(
            self._context
        )  # FLARE keeps it in the thread, and a greeting is asked from another one
        calls: dict[str, Any] = {
            name: collab.get_clients([name])(timeout=seconds, blocking=False).answer(verb, content)
            for name, content in requests.items()
        }
        for name, call in calls.items():
            answers = [answer for _, answer in call]  # ends when it has come or its time is over
            yield name, answers[0] if answers else call.failures.get(name, TimeoutError())


def _own_folder() -> Path:
    return Path(collab.workspace.get_root_dir()) / OWN_FOLDER


def write_job(folder: Path, hospitals: Sequence[str], minimum: int = 1) -> Path:
    """Write the job of one session: which classes, and at which sites. There is nothing else in it.

    Args:
        folder: Made anew.
        hospitals: Whose sites take part.
        minimum: With how many FLARE begins it: a full disk at one, say, must not keep the others
            waiting.
    """
    shutil.rmtree(folder, ignore_errors=True)
    server = {
        "format_version": 2,
        "workflows": [
            {
                "id": "controller",
                "path": CONTROLLER,
                "args": {"server_obj_id": "federation", "sync_task_timeout": 120},
            }
        ],
        "components": [
            {"id": "federation", "path": f"{__name__}.{FederationServer.__name__}", "args": {}}
        ],
    }
    executor = {"id": "executor", "path": EXECUTOR, "args": {"client_obj_id": "federation"}}
    client = {
        "format_version": 2,
        "executors": [{"tasks": ["*"], "executor": executor}],
        "components": [
            {"id": "federation", "path": f"{__name__}.{FederationHospital.__name__}", "args": {}}
        ],
    }
    meta = {
        "name": "federation",
        "resource_spec": {},
        "min_clients": min(minimum, len(hospitals)),
        "deploy_map": {"server": ["server"], "hospital": list(hospitals)},
    }
    for place, content in (
        ("meta.json", meta),
        ("server/config/config_fed_server.json", server),
        ("hospital/config/config_fed_client.json", client),
    ):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(json.dumps(content, indent=1), encoding="utf-8")
    return folder
