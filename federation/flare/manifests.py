"""Service manifests of a deployment: systemd, compose, Kubernetes and alerts.

A hospital's manifest names its own kit and no other's. Keys and images are mounted, never written
into a manifest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from federation.flare.event_feed import write_atomically
from federation.flare.kubernetes import hospital_manifest, server_manifest, site_label
from federation.flare.systemd import UNITS

METRICS_PORT = 9102
_USER = 10001
_DOCKERFILE = f"""\
# From a checkout of fedka: docker build -f DEPLOYMENT/manifests/Dockerfile -t fedka .
FROM python:3.11-slim
COPY . /source
RUN pip install --no-cache-dir '/source[flare]' && rm -rf /source
# Nobody: kits and twins' states are mounted and belong to this number (or run with --user).
USER {_USER}:{_USER}
# The root file system is read only; what a library caches goes to /tmp, which is a tmpfs.
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
ENTRYPOINT ["fedka"]
"""
_READ = """\
How to run each site as a service; docs/operations.md says when and why.

systemd/      on machines: copy what a machine needs to /etc/systemd/system
compose.yaml  all sites as containers of one machine, for a trial
kubernetes/   server.yaml for the server's cluster, hospital-*.yaml for each hospital's own
Dockerfile    the image of both
alerts.yaml   rules for Prometheus over the server's /metrics
"""


def write_manifests(
    out: Path, folder: Path, names: Sequence[str], *, host: str, port: int, metrics_port: int | None
) -> None:
    """Write the manifests of a deployment.

    Args:
        out: Folder; made here.
        folder: Where the deployment will lie.
        names: Of the hospitals.
        host: Of the server.
        port: Of the server.
        metrics_port: Of health and metrics; none: no probes.
    """
    (out / "systemd").mkdir(parents=True)
    (out / "kubernetes").mkdir()
    for name, unit in UNITS.items():
        write_atomically(out / "systemd" / name, unit)
    write_atomically(out / "Dockerfile", _DOCKERFILE)
    write_atomically(out / "README", _READ)
    write_atomically(
        out / "compose.yaml",
        _dump([compose(folder, names, host=host, port=port, metrics_port=metrics_port)]),
    )
    write_atomically(out / "alerts.yaml", _dump([alerts()]))
    write_atomically(
        out / "kubernetes" / "server.yaml", _dump(server_manifest(host, port, metrics_port))
    )
    for name in names:
        write_hospital_manifest(out, name, port)


def write_hospital_manifest(out: Path, name: str, port: int) -> None:
    """Write one hospital's manifest."""
    write_atomically(
        out / "kubernetes" / f"{site_label(name)}.yaml", _dump(hospital_manifest(name, port))
    )


def _dump(documents: Sequence[Mapping[str, Any]]) -> str:
    class Whole(yaml.SafeDumper):
        """Repeats what occurs twice, as people read it."""

        def ignore_aliases(self, data: object) -> bool:
            return True

    return yaml.dump_all(documents, Dumper=Whole, sort_keys=False, width=140)


def compose(
    folder: Path, names: Sequence[str], *, host: str, port: int, metrics_port: int | None
) -> dict[str, Any]:
    """Return all sites as containers of one machine, in a network that leads nowhere.

    A certificate is good for one host name: where that is localhost, all share the server's
    network; otherwise it is the server's alias.
    """
    root = folder.resolve()
    common = {
        "image": "${FEDKA_IMAGE:-fedka}",
        "user": "${FEDKA_USER:?the owner of the kits as numbers, such as 1000:1000}",
        "restart": "unless-stopped",
        "read_only": True,
        "tmpfs": ["/tmp"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "init": True,
    }
    here = (
        {"network_mode": "service:server", "depends_on": ["server"]}
        if host == "localhost"
        else {"networks": ["federation"]}
    )
    network = (
        {"networks": {"federation": {"aliases": [host]}}}
        if host != "localhost"
        else {"networks": ["federation"]}
    )
    server = {
        **common,
        "command": ["deploy", "start", "/site/server"],
        **network,
        "volumes": [_bind(root / "server", "/site/server")],
    }
    run = {
        **common,
        **here,
        "command": ["deploy", "run", "/site", "--stay"],
        "volumes": [
            _bind(root / "server", "/site/server"),
            _bind(root / "operator", "/site/operator"),
        ],
    }
    if metrics_port is not None:
        asks = (
            "import urllib.request; "
            f"urllib.request.urlopen('http://127.0.0.1:{metrics_port}/healthz', timeout=5)"
        )
        run["healthcheck"] = {
            "test": ["CMD", "python", "-c", asks],
            "interval": "30s",
            "timeout": "10s",
            "retries": 4,
        }
    hospitals = {
        site_label(name): {
            **common,
            **here,
            "command": ["deploy", "start", f"/site/{name}"],
            "volumes": [_bind(root / "hospitals" / name, f"/site/{name}")],
        }
        for name in names
    }
    return {
        "name": "fedka",
        "services": {"server": server, "run": run, **hospitals},
        "networks": {"federation": {"internal": True}},
    }


def _bind(source: Path, target: str) -> dict[str, str]:
    return {"type": "bind", "source": str(source), "target": target}


def alerts() -> dict[str, Any]:
    """Return rules for Prometheus over the metrics of ``federation.flare.health``."""
    faulty = 'max_over_time(fedka_hospital_state{state="faulty"}[15m])'
    wanted = (
        (
            "FedkaDown",
            'up{job="fedka"} == 0 or absent(up{job="fedka"})',
            "5m",
            "page",
            "nobody supervises the run",
        ),
        (
            "FedkaFailed",
            'fedka_state{state="failed"} == 1',
            "1m",
            "page",
            "the run stopped with an error",
        ),
        (
            "FedkaWaits",
            'fedka_state{state="waiting"} == 1',
            "15m",
            "page",
            "fewer hospitals than the minimum are there",
        ),
        (
            "FedkaStands",
            "fedka_healthy == 0",
            "5m",
            "page",
            "nothing has happened for longer than a stage may take",
        ),
        (
            "HospitalSuspect",
            'fedka_hospital_state{state="suspect"} == 1',
            "15m",
            "ticket",
            "{{ $labels.hospital }} does not answer",
        ),
        # It may look at its data without a fault and then train with one: its state changes within
        # a round.
        (
            "HospitalFaulty",
            f"{faulty} == 1",
            "0m",
            "ticket",
            "{{ $labels.hospital }} answers with faults",
        ),
        (
            "UpdatesTurnedAway",
            "fedka_round_rejected_updates > 0",
            "0m",
            "ticket",
            "updates did not pass the screening",
        ),
        (
            "SessionsEnd",
            "increase(fedka_sessions_total[1h]) > 5",
            "0m",
            "ticket",
            "sessions begin again and again",
        ),
        (
            "CertificateEnds",
            "fedka_certificate_expiry_timestamp_seconds - time() < 30 * 86400",
            "1h",
            "ticket",
            "rotate the certificates",
        ),
    )
    rules = [
        {
            "alert": name,
            "expr": expression,
            "for": wait,
            "labels": {"severity": severity},
            "annotations": {"summary": summary},
        }
        for name, expression, wait, severity, summary in wanted
    ]
    return {"groups": [{"name": "fedka", "rules": rules}]}
