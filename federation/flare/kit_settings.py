"""FLARE settings of a site: what FLARE may do there, and where it stores.

FLARE's defaults let an operator bring code and read files, and store in a folder that all users of
a machine share. Here a site builds two classes and nothing else, takes no code, and keeps its files
below its own kit.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from federation.flare.event_feed import write_atomically
from federation.flare.hospital_site import OWN_FOLDER
from federation.flare.json_logs import LOG_CONFIG, log_config

ALLOWED_AT_SERVER = (
    "federation.flare.flare_job.FederationServer",
    "nvflare.collab.runtime.controller.CollabController",
)
ALLOWED_AT_HOSPITAL = (
    "federation.flare.flare_job.FederationHospital",
    "nvflare.collab.runtime.executor.CollabExecutor",
)
_OPERATOR_MAY = {  # FLARE's default is anything: sites' files read, code of a job run
    **dict.fromkeys(("submit_job", "manage_job", "download_job", "view", "operate"), "any"),
    **dict.fromkeys(("clone_job", "shell_commands", "byoc", "server-predeployed-flwr"), "none"),
}
_SILENT_SECONDS = 60.0  # after which FLARE itself forgets a hospital


def settle_server(kit: Path, final: Path) -> None:
    """Write the server's own settings of FLARE, and let nobody else read its kit.

    Args:
        kit: Where it lies now.
        final: Where it will lie.
    """

    def at_server(resources: dict[str, Any]) -> None:
        resources["servers"][0]["heart_beat_timeout"] = _SILENT_SECONDS
        _store_below(resources, final)
        scheduler = next(each for each in resources["components"] if each["id"] == "job_scheduler")
        scheduler["args"]["max_jobs"] = 1
        resources["components"] = [
            each for each in resources["components"] if each["id"] != "log_receiver"
        ]
        resources["components"].append(
            {"id": "gate", "path": "federation.flare.request_filter.ServerGate", "args": {}}
        )

    _write_resources(kit, ALLOWED_AT_SERVER, at_server)
    close_kit(kit)


def settle_hospital(kit: Path) -> None:
    """Write a hospital's own settings of FLARE, and let nobody else read its kit."""

    def at_hospital(resources: dict[str, Any]) -> None:
        resources["components"] = [
            each for each in resources["components"] if each["id"] != "site_log_streamer"
        ]
        resources["components"].append(
            {"id": "gate", "path": "federation.flare.request_filter.HospitalGate", "args": {}}
        )

    _write_resources(kit, ALLOWED_AT_HOSPITAL, at_hospital)
    close_kit(kit)


def close_kit(kit: Path) -> None:
    """Let nobody but its owner read a kit."""
    kit.chmod(0o700)
    for key in kit.glob("startup/*.key"):
        key.chmod(0o600)


def settle_stores(kit: Path) -> None:
    """Tell FLARE's server where it lies now.

    Its stores are whole paths, and a kit is made on one machine and run on another.
    """
    path = kit / "local" / "resources.json"
    if not (kit / "startup" / "fed_server.json").exists() or not path.exists():
        return
    before = path.read_text(encoding="utf-8")
    resources = json.loads(before)
    _store_below(resources, kit)
    after = json.dumps(resources, indent=1)
    if after != before:
        write_atomically(path, after)


def _store_below(resources: dict[str, Any], kit: Path) -> None:
    own = (kit / OWN_FOLDER).resolve()
    resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(
        own / "flare" / "snapshots"
    )
    jobs = next(each for each in resources["components"] if each["id"] == "job_manager")
    jobs["args"]["uri_root"] = str(own / "flare" / "jobs")


def _write_resources(
    kit: Path, allowed: Sequence[str], change: Callable[[dict[str, Any]], None]
) -> None:
    resources: dict[str, Any] = json.loads(
        (kit / "local" / "resources.json.default").read_text(encoding="utf-8")
    )
    resources |= {
        "class_list_enforcement_mode": "enforce",
        "class_allow_list": list(allowed),
        "allow_log_streaming": False,
    }
    resources["app_validator"] = {
        "path": "federation.flare.request_filter.OnlyConfiguration",
        "args": {},
    }
    change(resources)
    write_atomically(kit / "local" / "resources.json", json.dumps(resources, indent=1))
    rights = {"format_version": "1.0", "permissions": {"project_admin": _OPERATOR_MAY}}
    write_atomically(kit / "local" / "authorization.json", json.dumps(rights, indent=1))
    write_atomically(kit / "local" / LOG_CONFIG, json.dumps(log_config(), indent=1))
    (kit / "transfer").mkdir(mode=0o700, exist_ok=True)
