"""Provisioning of a deployment: folders and start-up kits.

FLARE's own provisioning makes keys, certificates and kits; what is ours is put beside: what FLARE
may do at the site (``federation.flare.kit_settings``), the experiment at the server, one hospital's
images at its own.

    authority/            the certificate authority's private key: keep it offline; needed to add
    hospitals server/               the server's kit, and in fedka/ its file, the experiment, the
    run hospitals/<name>/     a hospital's kit, and in fedka/ its file, its archive, its twin's
    state operator/             the kit by which sessions are begun manifests/            how each
    site is run as a service: systemd, containers, Kubernetes
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.experiment.config import ExperimentConfig
from federation.experiment.run_folder import RunFolder
from federation.experiment.setup import prepare_experiment
from federation.flare.event_feed import write_atomically
from federation.flare.hospital_site import OWN_FOLDER, SITE_FILE
from federation.flare.kit_settings import close_kit, settle_hospital, settle_server
from federation.flare.manifests import write_manifests
from federation.flare.server import PLAN_FILE, SERVER_FILE, ServerConfig, ServerPlace
from federation.flare.version_check import write_made_with
from physical.archive_file import save_archive
from twin.secure_sum.mask_keys import long_term_key

AUTHORITY_FILE, PROJECT_FILE, PUBLIC_KEYS_FILE = "cert.json", "project.yml", "public_keys.json"
LONG_TERM_KEY = "long_term.key"  # of a hospital
_PROJECT, _ORGANISATION, _ADMIN = "fedka", "federation", "operator@federation.org"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
ARCHIVE = "archive.safetensors"


class DeployError(ValueError):
    """A deployment that cannot be made or used: what, got, allowed, what to do."""


@dataclass(frozen=True)
class Deployment:
    """The folders of a deployment.

    Args:
        folder: Holds them all.
    """

    folder: Path

    @property
    def server(self) -> Path:
        """The server's kit."""
        return self.folder / "server"

    @property
    def operator(self) -> Path:
        """The operator's kit."""
        return self.folder / "operator"

    @property
    def authority(self) -> Path:
        """The certificate authority."""
        return self.folder / "authority"

    def hospital(self, name: str) -> Path:
        """A hospital's kit."""
        return self.folder / "hospitals" / name

    @property
    def place(self) -> ServerPlace:
        """The server's own folder."""
        return ServerPlace(self.server / OWN_FOLDER)

    @property
    def admin(self) -> str:
        """The operator's name."""
        return _ADMIN


def init_deployment(
    experiment: ExperimentConfig,
    folder: Path,
    config: ServerConfig,
    *,
    host: str,
    port: int,
    data_dir: Path | None = None,
) -> Deployment:
    """Make a deployment of an experiment.

    Kits, and every hospital's part of the plan with its own images.

    Args:
        experiment: What will be run; its hospitals are the sites.
        folder: Must be new; appears whole or not at all.
        config: The server's file; its list of hospitals is the experiment's.
        host: Name of the server's machine: it stands in its certificate.
        port: By which hospitals and operator reach it.
        data_dir: Folder with data files.

    Raises:
        DeployError: If a name cannot be one, the folder is there, or the experiment may not be
            deployed.
    """
    names = tuple(each.name for each in experiment.hospitals)
    _check_names(names, host, port)
    if folder.exists():
        raise DeployError(
            f"{folder} is there already; choose another folder, or add hospitals with fedka deploy "
            "add"
        )
    experiment.check_deployable()
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made = Deployment(beside)
        _provision(made, names, host, port)
        own = made.server / OWN_FOLDER
        own.mkdir(mode=0o700)
        server_file = {**_plain(replace(config, hospitals=names))}
        write_atomically(own / SERVER_FILE, yaml.safe_dump(server_file, sort_keys=False))
        RunFolder(own).write_json(PLAN_FILE, experiment.as_plain())
        hospitals = (
            None if config.own_images else prepare_experiment(experiment, data_dir).hospitals()
        )
        public = {name: write_hospital(made.hospital(name), name, hospitals) for name in names}
        pin_keys(made, names, public)
        write_made_with(own)
        settle_server(made.server, folder / "server")
        close_kit(made.operator)
        for name in names:
            settle_hospital(made.hospital(name))
        for secret in made.authority.iterdir():
            secret.chmod(0o600)
        write_manifests(
            beside / "manifests",
            folder,
            names,
            host=host,
            port=port,
            metrics_port=config.metrics_port,
        )
        beside.chmod(0o700)
        beside.replace(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return Deployment(folder)


def write_hospital(kit: Path, name: str, hospitals: SimulatedHospitals | None) -> str:
    """Put a hospital's images, unless it brings its own, and its long-term key beside its kit.

    Return the public half of the key.
    """
    site = kit / OWN_FOLDER
    site.mkdir(mode=0o700)
    if hospitals is not None:
        save_archive(
            site / ARCHIVE, hospitals.archive, hospitals.arrivals[name], hospitals.joins[name]
        )
    write_made_with(site)
    private, public = long_term_key()
    (site / LONG_TERM_KEY).touch(mode=0o600)
    (site / LONG_TERM_KEY).write_bytes(private)
    return public


def pin_keys(made: Deployment, names: Sequence[str], public: Mapping[str, str]) -> None:
    """Give hospitals their own file, with everybody's public key.

    The server's word is not taken for whose key is whose.
    """
    secure = made.place.experiment.federation.secure_aggregation is not None
    for name in names:
        own: dict[str, Any] = {
            "hospital": name,
            "long_term_key": LONG_TERM_KEY,
            "masking": {"pinned_keys": dict(public)},
        }
        if not (made.hospital(name) / OWN_FOLDER / ARCHIVE).exists():
            own["mirror"] = "mirror"
        if secure:  # or a server could ask for the single update all the same
            own["only_in_sum"] = True
        write_atomically(made.hospital(name) / OWN_FOLDER / SITE_FILE, yaml.safe_dump(own))
    write_atomically(made.authority / PUBLIC_KEYS_FILE, json.dumps(dict(public), indent=1))
    (made.authority / PUBLIC_KEYS_FILE).chmod(0o600)


def _check_names(names: Sequence[str], host: str, port: int) -> None:
    for name in names:
        if not _NAME.fullmatch(name) or name in ("server", "operator", host):
            raise DeployError(
                f"hospital {name!r} cannot be the name of a site; allowed: letters, digits, _ and "
                "-, at most 63, and not server, operator "
                "or the server's host"
            )
    if not _HOST.fullmatch(host):
        raise DeployError(f"host is {host!r}; allowed: a host name, as hospitals reach it")
    if not 1 <= port <= 65535:
        raise DeployError(f"port is {port}; allowed: 1 to 65535")


def _provision(made: Deployment, names: Sequence[str], host: str, port: int) -> None:
    """Let FLARE make keys, certificates and kits, and put each where it belongs."""
    participants: list[dict[str, Any]] = [
        {
            "name": host,
            "type": "server",
            "org": _ORGANISATION,
            "fed_learn_port": port,
            "connection_security": "mtls",
        },
        *(
            {"name": name, "type": "client", "org": _ORGANISATION, "connection_security": "mtls"}
            for name in names
        ),
        {"name": _ADMIN, "type": "admin", "org": _ORGANISATION, "role": "project_admin"},
    ]
    inner = "nvflare.lighter.impl"
    builders = [
        {
            "path": f"{inner}.workspace.WorkspaceBuilder",
            "args": {"template_file": ["master_template.yml"]},
        },
        {
            "path": f"{inner}.static_file.StaticFileBuilder",
            "args": {"config_folder": "config", "scheme": "tcp"},
        },
        {"path": f"{inner}.cert.CertBuilder"},
        {"path": f"{inner}.signature.SignatureBuilder"},
    ]
    project = {
        "api_version": 3,
        "name": _PROJECT,
        "participants": participants,
        "builders": builders,
    }
    with tempfile.TemporaryDirectory(dir=made.folder) as scratch:
        kits = make_kits(project, Path(scratch))
        made.authority.mkdir(mode=0o700, exist_ok=True)
        shutil.move(kits / "state" / AUTHORITY_FILE, made.authority / AUTHORITY_FILE)
        write_atomically(made.authority / PROJECT_FILE, yaml.safe_dump(project))
        shutil.move(kits / "prod_00" / host, made.server)
        shutil.move(kits / "prod_00" / _ADMIN, made.operator)
        for name in names:
            made.hospital(name).parent.mkdir(exist_ok=True)
            shutil.move(kits / "prod_00" / name, made.hospital(name))


def make_kits(project: Mapping[str, Any], scratch: Path, authority: str | None = None) -> Path:
    """Let FLARE make the kits of a project.

    Args:
        project: As FLARE's project.yml says it.
        scratch: An empty folder.
        authority: Content of ``authority/cert.json``: who is in it keeps key and certificate; none:
            a new authority.

    Returns:
        A folder with ``state`` and ``prod_00``.

    Raises:
        DeployError: If it failed.
    """
    plan, kits = scratch / PROJECT_FILE, scratch / "out" / _PROJECT
    plan.write_text(yaml.safe_dump(project), encoding="utf-8")
    if authority is not None:
        (kits / "state").mkdir(parents=True)
        (kits / "state" / AUTHORITY_FILE).write_text(authority, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "nvflare.lighter.provision",
        "-p",
        str(plan),
        "-w",
        str(scratch / "out"),
        "--force",
    ]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    if done.returncode or not (kits / "prod_00").is_dir():
        said = (done.stderr or done.stdout).strip().splitlines()
        raise DeployError(
            f"FLARE's provisioning failed: {said[-1] if said else 'without a word'}; is it "
            "installed? pip install 'fedka[flare]'"
        )
    return kits


def _plain(config: ServerConfig) -> Mapping[str, Any]:
    from dataclasses import asdict

    return {**asdict(config), "hospitals": list(config.hospitals)}
