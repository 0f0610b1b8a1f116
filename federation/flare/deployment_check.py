"""Checks a kit, or a whole deployment, before anything is started.

What one machine cannot see, another site's versions or its clock, is seen as far as it shows: in
what the kit was made with, in the dates of the certificates, and at the latest in the feed when the
site says hello.
"""

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from federation.flare.certificates import Finding, Level, certificate_findings, permissions
from federation.flare.hospital_site import SiteError, load_site
from federation.flare.json_logs import LOG_CONFIG, log_config
from federation.flare.kit import HANDED_OUT, Kit, read_json, read_kit
from federation.flare.kit_settings import ALLOWED_AT_HOSPITAL, ALLOWED_AT_SERVER
from federation.flare.provisioning import DeployError, Deployment
from federation.flare.request_filter import HospitalGate, OnlyConfiguration, ServerGate
from federation.flare.server import ServerPlace, ServingError
from federation.flare.version_check import version_findings, versions
from physical.archive_file import ArchiveError, load_hospital
from physical.mirror import Mirror, MirrorError

Clock = Callable[[], datetime]
_LEAST_BYTES, _FEW_BYTES = 256 << 20, 2 << 30
_CONNECT_SECONDS = 3.0
_EVER = 1 << 62  # in rounds
_STREAMERS = ("site_log_streamer", "log_receiver")


def check(folder: Path, clock: Clock = lambda: datetime.now(UTC)) -> tuple[Finding, ...]:
    """Look at a kit, or at every kit of a deployment.

    Args:
        folder: Either.
        clock: Gives the time.

    Raises:
        DeployError: If it is neither.
    """
    here = versions()
    if (folder / "startup").is_dir():
        return tuple(_look(folder, clock(), here, alone=True))
    made = Deployment(folder)
    if not (made.server / "startup").is_dir():
        raise DeployError(
            f"{folder} is neither a kit nor a deployment; allowed: what fedka deploy init made"
        )
    hospitals = sorted(each for each in (folder / "hospitals").glob("*") if each.is_dir())
    kits = [made.server, *hospitals, *([made.operator] if made.operator.is_dir() else [])]
    found = [finding for kit in kits for finding in _look(kit, clock(), here, alone=False)]
    return (*found, *_together(made, [each.name for each in hospitals]))


def is_fit(findings: Sequence[Finding]) -> bool:
    """Return whether nothing forbids to start."""
    return all(each.level != "error" for each in findings)


def _look(
    folder: Path, now: datetime, here: Mapping[str, Any], *, alone: bool
) -> Iterator[Finding]:
    try:
        kit = read_kit(folder)
    except DeployError as error:
        yield Finding(folder.name, "kit", "error", str(error), "a kit of FLARE's", HANDED_OUT)
        return
    site = kit.name
    yield from certificate_findings(
        site,
        folder / "startup",
        kit.base,
        kit.name,
        kit.host if kit.kind == "server" else None,
        now,
    )
    yield permissions(site, "kit's permissions", folder, 0o700)
    if kit.kind != "operator":
        yield from _settings(kit)
        yield from _space(kit)
        yield from version_findings(site, kit.own, now, here)
    yield from {"server": _server, "hospital": _hospital, "operator": _nothing}[kit.kind](kit)
    if kit.kind == "server":
        yield _port(kit)
    elif alone:
        yield _reach(kit)


def _nothing(kit: Kit) -> Iterator[Finding]:
    yield from ()


def _settings(kit: Kit) -> Iterator[Finding]:
    """Look at what FLARE may build and send at this site."""
    path = kit.folder / "local" / "resources.json"
    try:
        plain: dict[str, Any] = read_json(path)
        parts = {str(each.get("id")): each.get("path") for each in plain.get("components", [])}
    except (OSError, ValueError, AttributeError) as error:
        yield Finding(
            kit.name,
            "resources.json",
            "error",
            f"cannot be read: {type(error).__name__}",
            "as fedka deploy init wrote it",
            HANDED_OUT,
        )
        return
    ours = ALLOWED_AT_SERVER if kit.kind == "server" else ALLOWED_AT_HOSPITAL
    streams = [each for each in parts if each in _STREAMERS]
    wanted = (
        ("classes a job may build", sorted(plain.get("class_allow_list", [])), sorted(ours)),
        ("allow-list", plain.get("class_list_enforcement_mode"), "enforce"),
        (
            "applications",
            plain.get("app_validator", {}).get("path"),
            f"{OnlyConfiguration.__module__}.{OnlyConfiguration.__name__}",
        ),
        ("log streaming", [plain.get("allow_log_streaming"), *streams], [False]),
    )
    for what, got, allowed in wanted:
        if got == allowed:
            yield Finding(kit.name, what, "ok", _words(got))
        else:
            yield Finding(
                kit.name,
                what,
                "error",
                _words(got),
                _words(allowed),
                f"write it into {path}; a job could do more than ours does",
            )
    if kit.kind == "server":
        yield from _stores(kit, path, plain)
    kind = ServerGate if kit.kind == "server" else HospitalGate
    gate = f"{kind.__module__}.{kind.__name__}"
    shut = gate in parts.values()
    advice = (
        f"write it into the components of {path}; FLARE would do here what no job of ours needs"
    )
    yield (
        Finding(kit.name, "gate", "ok", "shut")
        if shut
        else Finding(kit.name, "gate", "error", "missing", gate, advice)
    )
    try:
        same = read_json(kit.folder / "local" / LOG_CONFIG) == log_config()
    except (OSError, ValueError):
        same = False
    advice = "fedka deploy init writes it; FLARE's own logs more, and not in lines of JSON alone"
    yield (
        Finding(kit.name, "logs", "ok", "JSON lines")
        if same
        else Finding(kit.name, "logs", "warning", f"{LOG_CONFIG} is not ours", "ours", advice)
    )


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _stores(kit: Kit, path: Path, plain: dict[str, Any]) -> Iterator[Finding]:
    """Look whether FLARE stores inside the kit.

    The paths are whole ones, and a kit that was moved must be told.
    """
    inside = kit.own.resolve()
    try:
        jobs = next(each for each in plain["components"] if each["id"] == "job_manager")["args"][
            "uri_root"
        ]
        snapshots = plain["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"]
    except (KeyError, StopIteration, TypeError):
        jobs = snapshots = "/nowhere"
    outside = [
        each for each in (jobs, snapshots) if not Path(each).resolve().is_relative_to(inside)
    ]
    if outside:
        advice = f"the kit was moved: fedka deploy start writes {path} anew"
        yield Finding(
            kit.name, "FLARE's stores", "warning", ", ".join(outside), f"below {inside}", advice
        )
    else:
        yield Finding(kit.name, "FLARE's stores", "ok", f"below {inside}")


def _space(kit: Kit) -> Iterator[Finding]:
    free = shutil.disk_usage(kit.folder).free
    got, advice = f"{free / 2**30:.1f} GiB", f"make room on the disk of {kit.folder}"
    if free < _LEAST_BYTES:
        yield Finding(
            kit.name, "free space", "error", got, f"{_LEAST_BYTES / 2**30:.2f} GiB or more", advice
        )
    elif free < _FEW_BYTES:
        yield Finding(
            kit.name, "free space", "warning", got, f"{_FEW_BYTES / 2**30:.0f} GiB or more", advice
        )
    else:
        yield Finding(kit.name, "free space", "ok", got)
    if kit.own.is_dir() and not os.access(kit.own, os.W_OK | os.X_OK):
        yield Finding(
            kit.name,
            "own folder",
            "error",
            "cannot be written",
            "writable for who runs the site",
            f"chown it: {kit.own}",
        )


def _server(kit: Kit) -> Iterator[Finding]:
    place = ServerPlace(kit.own)
    try:
        names = place.config.hospitals
        planned = tuple(each.name for each in place.experiment.hospitals)
    except ServingError as error:
        yield Finding(
            kit.name,
            "server.yaml",
            "error",
            str(error),
            "as fedka deploy init wrote it",
            HANDED_OUT,
        )
        return
    listed = ", ".join(names)
    if names == planned:
        yield Finding(kit.name, "hospitals", "ok", listed)
    else:
        advice = "write the experiment's hospitals into server.yaml, in the same order"
        yield Finding(kit.name, "hospitals", "error", listed, ", ".join(planned), advice)
    least = place.config.link.minimum_hospitals
    if least > len(names):
        advice = "write a lower minimum_hospitals into server.yaml"
        yield Finding(kit.name, "minimum", "error", str(least), f"{len(names)} or less", advice)
    data = place.config.data
    if data is not None and not Path(data).is_dir():
        yield Finding(
            kit.name,
            "data",
            "error",
            f"{data} is not there",
            "a folder",
            "put it right in server.yaml",
        )


def _hospital(kit: Kit) -> Iterator[Finding]:
    try:
        config = load_site(kit.own)
    except SiteError as error:
        yield Finding(
            kit.name, "hospital.yaml", "error", str(error), "a hospital's own file", HANDED_OUT
        )
        return
    advice = "nobody takes another's kit or file: put back what was handed out"
    for what, got in (("own name", config.hospital), ("kit's folder", kit.folder.resolve().name)):
        yield (
            Finding(kit.name, what, "ok", got)
            if got == kit.name
            else Finding(kit.name, what, "error", got, kit.name, advice)
        )
    yield (
        _mirror(kit, config.mirror) if config.mirror is not None else _archive(kit, config.archive)
    )
    states = kit.own / config.state
    if states.exists() and not os.access(states, os.W_OK | os.X_OK):
        yield Finding(
            kit.name,
            "twin's state",
            "error",
            "cannot be written",
            "writable for who runs the site",
            f"chown it: {states}",
        )
    if config.long_term_key is not None and (key := kit.own / config.long_term_key).exists():
        yield permissions(kit.name, "long-term key's permissions", key, 0o600)
    yield Finding(kit.name, "forbidden uploads", "ok", ", ".join(config.policy.forbid) or "none")


def _archive(kit: Kit, archive: str) -> Finding:
    try:
        hospital = load_hospital(kit.name, kit.own / archive)
        return Finding(
            kit.name, "archive", "ok", f"{len(hospital.new_images(-_EVER, _EVER))} images"
        )
    except (ArchiveError, OSError) as error:
        return Finding(
            kit.name,
            "archive",
            "error",
            str(error),
            "an archive of this hospital",
            f"write it beside {kit.own / 'hospital.yaml'}",
        )


def _mirror(kit: Kit, mirror: str) -> Finding:
    try:
        images = Mirror.open_existing(kit.own / mirror)
    except (MirrorError, OSError) as error:
        advice = (
            f"let the hospital's intake fill {kit.own / mirror} (fedka console intake), or name "
            "its folder in hospital.yaml"
        )
        return Finding(kit.name, "mirror", "error", str(error), "this hospital's mirror", advice)
    with closing(images):
        named = len(images.ids(named=True))
        level: Level = "ok" if named else "warning"
        return Finding(
            kit.name,
            "mirror",
            level,
            f"{len(images)} images, {named} with a name",
            "named ones",
            "let clinicians name some",
        )


def _port(kit: Kit) -> Finding:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", kit.port))
            return Finding(kit.name, "port", "ok", f"{kit.port} is free")
        except OSError as error:
            got = f"{kit.port}: {os.strerror(error.errno or 0)}"
            return Finding(
                kit.name,
                "port",
                "warning",
                got,
                "free",
                "nothing, if this server is running already; otherwise look who has it",
            )


def _reach(kit: Kit) -> Finding:
    where = f"{kit.host}:{kit.port}"
    try:
        with closing(socket.create_connection((kit.host, kit.port), _CONNECT_SECONDS)):
            return Finding(kit.name, "server", "ok", f"{where} answers")
    except OSError as error:
        advice = (
            "nothing, if the server is not started yet: sites wait for it; otherwise look at name, "
            "route and firewall"
        )
        return Finding(
            kit.name, "server", "warning", f"{where}: {type(error).__name__}", "answers", advice
        )


def _together(made: Deployment, hospitals: Sequence[str]) -> Iterator[Finding]:
    """Look whether the kits of a deployment belong together."""
    roots = {
        (kit / "startup" / "rootCA.pem").read_bytes()
        for kit in (made.server, *map(made.hospital, hospitals))
        if (kit / "startup").is_dir()
    }
    if len(roots) == 1:
        yield Finding("deployment", "one authority", "ok", "all kits")
    else:
        yield Finding(
            "deployment",
            "one authority",
            "error",
            f"{len(roots)} of them",
            "one",
            "these kits are of several deployments",
        )
    try:
        expected = set(made.place.config.hospitals)
    except ServingError:
        return  # said at the server
    if strange := sorted(set(hospitals) - expected):
        yield Finding(
            "deployment",
            "kits",
            "error",
            f"also of {', '.join(strange)}",
            "those of server.yaml",
            "move the others away",
        )
    if missing := sorted(expected - set(hospitals)):
        advice = "nothing, if they were handed out; a lost one: fedka deploy add"
        yield Finding(
            "deployment",
            "kits",
            "warning",
            f"none of {', '.join(missing)} here",
            "those of server.yaml",
            advice,
        )
    if made.authority.is_dir():
        for path in (made.authority, *sorted(made.authority.iterdir())):
            yield permissions(
                "deployment", f"{path.name}'s permissions", path, 0o700 if path.is_dir() else 0o600
            )
