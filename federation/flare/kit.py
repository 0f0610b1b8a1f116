"""Start-up kits: whose a kit is, of which kind, and for which server."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.flare.hospital_site import OWN_FOLDER
from federation.flare.provisioning import DeployError

HANDED_OUT = "take the kit as it was handed out, or make it anew: fedka deploy init"


@dataclass(frozen=True)
class Kit:
    """A kit as its files describe it.

    Args:
        folder: Of the kit.
        kind: ``server``, ``hospital`` or ``operator``.
        name: That its certificate must give.
        host: Of the server.
        port: Of the server.
    """

    folder: Path
    kind: str
    name: str
    host: str
    port: int

    @property
    def base(self) -> str:
        """Name of its certificate's file."""
        return "server" if self.kind == "server" else "client"

    @property
    def own(self) -> Path:
        """Folder of what is ours."""
        return self.folder / OWN_FOLDER


def read_kit(folder: Path) -> Kit:
    """Return what a kit is.

    Raises:
        DeployError: If its files do not say it.
    """
    startup = folder / "startup"
    try:
        if (path := startup / "fed_server.json").exists():
            server = read_json(path)["servers"][0]
            host, _, port = server["service"]["target"].rpartition(":")
            return Kit(folder, "server", server["admin_server"], host, int(port))
        if (path := startup / "fed_client.json").exists():
            plain = read_json(path)
            host, _, port = plain["servers"][0]["service"]["target"].rpartition(":")
            return Kit(folder, "hospital", plain["client"]["fqsn"], host, int(port))
        admin = read_json(startup / "fed_admin.json")["admin"]
        return Kit(folder, "operator", admin["username"], admin["host"], int(admin["port"]))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DeployError(
            f"{startup} says not what it is a kit of: {type(error).__name__}; {HANDED_OUT}"
        ) from error


def read_json(path: Path) -> Any:
    """Return what a file of JSON says."""
    return json.loads(path.read_text(encoding="utf-8"))
