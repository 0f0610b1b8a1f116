"""Kubernetes objects that run a site.

The server's pod holds two containers, because whoever begins sessions reads the run's folder beside
the server. A hospital's manifest is for the hospital's own cluster and knows no other hospital.
"""

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

USER = 10001
_IMAGE = "fedka"
_COPY = """\
set -eu
umask 077
cd /site
{copies}
"""
_COPY_ONE = """\
mkdir -p {site}/startup {site}/local {site}/transfer {site}/fedka
cp -L /secrets/{site}-startup/* {site}/startup/
cp -L /secrets/{site}-local/* {site}/local/
chmod 0700 {site}
chmod 0600 {site}/startup/*.key
"""
_WAIT = """\
until [ -f {site}/fedka/hospital.yaml ] \\
  && {{ [ -f {site}/fedka/archive.safetensors ] || [ -d {site}/fedka/mirror ]; }}; do
  echo "waiting for the hospital's own folder: kubectl cp fedka {pod}:/site/{site}/ -c kit"
  sleep 10
done
"""


def site_label(name: str) -> str:
    """Return a hospital's name as Kubernetes allows it; two hospitals never get the same."""
    plain = re.sub("[^a-z0-9-]", "-", name.lower()).strip("-")[:40]
    return (
        f"hospital-{plain}"
        if plain == name
        else f"hospital-{plain}-{sha256(name.encode()).hexdigest()[:6]}"
    )


def server_manifest(host: str, port: int, metrics_port: int | None) -> list[dict[str, Any]]:
    """Return a service and a stateful set of one pod: the server, and who begins its sessions.

    Args:
        host: In the certificate: hospitals must reach the service by this name.
        port: Of the server.
        metrics_port: Of health and metrics; none: nobody asks whether it is well.
    """
    name = "fedka-server"
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": _labels(name), "annotations": {"fedka/host": host}},
        "spec": {
            # ClusterIP: hospitals in this cluster. From outside: LoadBalancer, and the DNS name of
            # the certificate on its address.
            "type": "ClusterIP",
            "selector": _labels(name),
            # Hospitals reach a server whose run is waiting for them.
            "publishNotReadyAddresses": True,
            "ports": [{"name": "federation", "port": port, "targetPort": port, "protocol": "TCP"}],
        },
    }
    listens = {"tcpSocket": {"port": port}, "periodSeconds": 10}
    server = {
        **_container("server", ["deploy", "start", "/site/server"]),
        "ports": [{"name": "federation", "containerPort": port}],
        "startupProbe": {**listens, "failureThreshold": 30},
        "livenessProbe": {**listens, "failureThreshold": 6},
    }
    run = _container("run", ["deploy", "run", "/site", "--stay", "--metrics-host", "0.0.0.0"])
    if metrics_port is not None:
        asks = {
            "httpGet": {"path": "/healthz", "port": metrics_port},
            "periodSeconds": 30,
            "timeoutSeconds": 5,
        }
        run |= {
            "ports": [{"name": "metrics", "containerPort": metrics_port}],
            "startupProbe": {**asks, "periodSeconds": 5, "failureThreshold": 30},
            "livenessProbe": {**asks, "failureThreshold": 4},
            "readinessProbe": {**asks, "httpGet": {"path": "/readyz", "port": metrics_port}},
        }
    copies = (
        f"{_COPY_ONE.format(site='server')}{_COPY_ONE.format(site='operator')}cp -L "
        "/secrets/plan/* server/fedka/\n"
    )
    secrets = {
        f"{site}-{part}": f"fedka-{site}-{part}"
        for site in ("server", "operator")
        for part in ("startup", "local")
    }
    pod = _pod(copies, [_check("server"), server, run], {**secrets, "plan": "fedka-server-plan"})
    reachable = [port] if metrics_port is None else [port, metrics_port]
    return [service, _policy(name, reachable), _stateful_set(name, pod, "20Gi")]


def hospital_manifest(hospital: str, port: int) -> list[dict[str, Any]]:
    """Return a stateful set of one pod, to which nobody can connect.

    Args:
        hospital: Its name.
        port: Of the server, to which it connects.
    """
    name = f"fedka-{site_label(hospital)}"
    copies = _COPY_ONE.format(site=hospital) + _WAIT.format(site=hospital, pod=f"{name}-0")
    secrets = {f"{hospital}-{part}": f"{name}-{part}" for part in ("startup", "local")}
    site = _container("hospital", ["deploy", "start", f"/site/{hospital}"])
    policy = _policy(name, [])
    policy["spec"]["policyTypes"].append("Egress")
    policy["spec"]["egress"] = [
        {"ports": [{"port": port, "protocol": "TCP"}]},
        {"ports": [{"port": 53, "protocol": "UDP"}]},
    ]
    return [policy, _stateful_set(name, _pod(copies, [_check(hospital), site], secrets), "50Gi")]


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "fedka", "app.kubernetes.io/instance": name}


def _container(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    return {
        "name": name,
        "image": _IMAGE,
        "args": list(arguments),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "8Gi"}},
        "volumeMounts": [
            {"name": "site", "mountPath": "/site"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def _check(site: str) -> dict[str, Any]:
    """Return the container that looks at a kit before anything is started.

    It is run first, and alone.
    """
    return _container("check", ["deploy", "check", f"/site/{site}"])


def _pod(
    copies: str, containers: Sequence[dict[str, Any]], secrets: dict[str, str]
) -> dict[str, Any]:
    check, *running = containers
    kit = {**_container("kit", []), "command": ["/bin/sh", "-c", _COPY.format(copies=copies)]}
    del kit["args"]
    kit["volumeMounts"] = [
        *kit["volumeMounts"],
        *(
            {"name": f"secret-{n}", "mountPath": f"/secrets/{each}"}
            for n, each in enumerate(secrets)
        ),
    ]
    kept = [
        {"name": f"secret-{n}", "secret": {"secretName": each, "defaultMode": 0o440}}
        for n, each in enumerate(secrets.values())
    ]
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [kit, check],
        "containers": running,
        "volumes": [{"name": "tmp", "emptyDir": {}}, *kept],
    }


def _stateful_set(name: str, pod: dict[str, Any], size: str) -> dict[str, Any]:
    claim = {
        "metadata": {"name": "site"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "labels": _labels(name)},
        "spec": {
            "serviceName": name,
            "replicas": 1,  # two of one site would answer for the same twin
            "selector": {"matchLabels": _labels(name)},
            "template": {"metadata": {"labels": _labels(name)}, "spec": pod},
            "volumeClaimTemplates": [claim],
        },
    }


def _policy(name: str, ports: Sequence[int]) -> dict[str, Any]:
    """Return who may connect to a pod: nobody but to these ports."""
    spec: dict[str, Any] = {
        "podSelector": {"matchLabels": _labels(name)},
        "policyTypes": ["Ingress"],
    }
    spec["ingress"] = (
        [{"ports": [{"port": port, "protocol": "TCP"} for port in ports]}] if ports else []
    )
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "labels": _labels(name)},
        "spec": spec,
    }
