# ruff: noqa: N815 -- the names are those of Kubernetes
"""Kubernetes' objects against its published schemas, and against pydantic models of the parts that are used, which are stricter.

A field that is not in a model is refused, so a misspelt or unknown field of ours is found; what a real cluster says is not known. Compose's
published schema is in no package that can be installed beside ours: its part stands here as models.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from federation.flare.kubernetes import site_label
from federation.flare.manifests import write_manifests
from federation.flare.systemd import HOME, PROGRAM, UNITS

NAMES = ("north", "South_1", "south-1", "St-Marys")
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(m|Ki|Mi|Gi)?$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Metadata(Strict):
    name: Label
    labels: dict[str, Label] = {}
    annotations: dict[str, str] = {}


class Mount(Strict):
    name: Label
    mountPath: str


class Address(Strict):
    path: str
    port: Port


class Socket(Strict):
    port: Port


class Probe(Strict):
    httpGet: Address | None = None
    tcpSocket: Socket | None = None
    periodSeconds: int
    timeoutSeconds: int = 1
    failureThreshold: int = 3


class Dropped(Strict):
    drop: list[Literal["ALL"]]


class ContainerSecurity(Strict):
    allowPrivilegeEscalation: Literal[False]
    readOnlyRootFilesystem: Literal[True]
    capabilities: Dropped


class Resources(Strict):
    requests: dict[Literal["cpu", "memory", "storage"], Quantity]
    limits: dict[Literal["cpu", "memory"], Quantity] = {}


class ContainerPort(Strict):
    name: Annotated[str, Field(max_length=15)]
    containerPort: Port


class Container(Strict):
    name: Label
    image: str
    command: list[str] = []
    args: list[str] = []
    ports: list[ContainerPort] = []
    startupProbe: Probe | None = None
    livenessProbe: Probe | None = None
    readinessProbe: Probe | None = None
    securityContext: ContainerSecurity
    resources: Resources
    volumeMounts: list[Mount]


class SecretSource(Strict):
    secretName: Label
    defaultMode: int


class Volume(Strict):
    name: Label
    emptyDir: dict[str, str] | None = None
    secret: SecretSource | None = None


class Seccomp(Strict):
    type: Literal["RuntimeDefault"]


class PodSecurity(Strict):
    runAsNonRoot: Literal[True]
    runAsUser: Annotated[int, Field(gt=0)]
    runAsGroup: Annotated[int, Field(gt=0)]
    fsGroup: int
    seccompProfile: Seccomp


class Pod(Strict):
    automountServiceAccountToken: Literal[False]
    enableServiceLinks: bool
    terminationGracePeriodSeconds: int
    securityContext: PodSecurity
    initContainers: list[Container]
    containers: list[Container]
    volumes: list[Volume]


class Template(Strict):
    class Labels(Strict):
        labels: dict[str, Label]

    metadata: Labels
    spec: Pod


class Selector(Strict):
    matchLabels: dict[str, Label]


class Claim(Strict):
    class Spec(Strict):
        accessModes: list[Literal["ReadWriteOnce"]]
        resources: Resources

    metadata: Metadata
    spec: Spec


class StatefulSet(Strict):
    class Spec(Strict):
        serviceName: Label
        replicas: Literal[1]
        selector: Selector
        template: Template
        volumeClaimTemplates: list[Claim]

    apiVersion: Literal["apps/v1"]
    kind: Literal["StatefulSet"]
    metadata: Metadata
    spec: Spec


class Service(Strict):
    class Spec(Strict):
        class Port(Strict):
            name: Label
            port: Port
            targetPort: Port
            protocol: Literal["TCP"]

        type: Literal["ClusterIP", "LoadBalancer"]
        selector: dict[str, Label]
        publishNotReadyAddresses: bool
        ports: list[Port]

    apiVersion: Literal["v1"]
    kind: Literal["Service"]
    metadata: Metadata
    spec: Spec


class NetworkPolicy(Strict):
    class Spec(Strict):
        class Rule(Strict):
            class Port(Strict):
                port: Port
                protocol: Literal["TCP", "UDP"]

            ports: list[Port]

        podSelector: Selector
        policyTypes: list[Literal["Ingress", "Egress"]]
        ingress: list[Rule]
        egress: list[Rule] = []

    apiVersion: Literal["networking.k8s.io/v1"]
    kind: Literal["NetworkPolicy"]
    metadata: Metadata
    spec: Spec


Kubernetes = TypeAdapter(Annotated[StatefulSet | Service | NetworkPolicy, Field(discriminator="kind")])


class Compose(Strict):
    class Service(Strict):
        class Healthcheck(Strict):
            test: list[str]
            interval: Annotated[str, Field(pattern=r"^\d+s$")]
            timeout: Annotated[str, Field(pattern=r"^\d+s$")]
            retries: int

        class Bind(Strict):
            type: Literal["bind"]
            source: str
            target: str

        class Attached(Strict):
            aliases: list[str]

        image: str
        user: str
        restart: Literal["unless-stopped"]
        read_only: Literal[True]
        tmpfs: list[str]
        cap_drop: list[Literal["ALL"]]
        security_opt: list[str]
        init: bool
        command: list[str]
        volumes: list[Bind]
        networks: list[str] | dict[str, Attached] = []
        network_mode: str | None = None
        depends_on: list[str] = []
        healthcheck: Healthcheck | None = None

    class Network(Strict):
        internal: bool

    name: Label
    services: dict[Label, Service]
    networks: dict[Label, Network]


@pytest.fixture
def out(tmp_path):
    made = tmp_path / "manifests"
    write_manifests(made, tmp_path / "deployment", NAMES, host="fedka.example", port=8102, metrics_port=9102)
    return made


def pods(path: Path) -> list[Pod]:
    objects = [Kubernetes.validate_python(each) for each in yaml.safe_load_all(path.read_text())]
    return [each.spec.template.spec for each in objects if isinstance(each, StatefulSet)]


def test_every_kubernetes_object_is_of_its_kind(out):
    for path in sorted((out / "kubernetes").iterdir()):
        (pod,) = pods(path)
        volumes = {each.name for each in pod.volumes} | {"site"}
        for container in (*pod.initContainers, *pod.containers):
            assert {each.name for each in container.volumeMounts} <= volumes


def test_every_kubernetes_object_is_valid_by_the_published_schemas(out):
    objects = [each for path in sorted((out / "kubernetes").glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]
    assert len(objects) >= 2 * len(NAMES)
    for each in objects:
        kubernetes_validate.validate(each, "1.37", strict=True)
    broken = next(each for each in objects if each["kind"] == "StatefulSet")
    broken["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_a_misspelt_field_would_be_found(out):
    plain = next(yaml.safe_load_all((out / "kubernetes" / "server.yaml").read_text()))
    with pytest.raises(ValidationError):
        Kubernetes.validate_python({**plain, "specs": {}})


def test_the_server_is_asked_whether_it_is_well_and_reached_before_its_run_is(out):
    (pod,) = pods(out / "kubernetes" / "server.yaml")
    server, run = pod.containers
    assert (run.livenessProbe.httpGet.path, run.readinessProbe.httpGet.path) == ("/healthz", "/readyz")
    assert "0.0.0.0" in run.args  # a probe comes from outside the pod
    assert server.livenessProbe.tcpSocket.port == 8102
    service = next(yaml.safe_load_all((out / "kubernetes" / "server.yaml").read_text()))
    assert service["spec"]["publishNotReadyAddresses"] is True


@pytest.mark.parametrize("name", NAMES)
def test_a_hospitals_manifest_knows_its_own_kit_and_no_others(out, name):
    text = (out / "kubernetes" / f"{site_label(name)}.yaml").read_text()
    for other in set(NAMES) - {name}:
        assert not re.search(rf"(?<![\w-]){re.escape(other)}(?![\w-])|{re.escape(site_label(other))}(?![\w-])", text)
    assert "operator" not in text and "authority" not in text and "PRIVATE" not in text
    (pod,) = pods(out / "kubernetes" / f"{site_label(name)}.yaml")
    assert {each.secret.secretName for each in pod.volumes if each.secret} == {
        f"fedka-{site_label(name)}-{part}" for part in ("startup", "local")
    }
    assert all(not each.ports for each in pod.containers)


def test_two_hospitals_never_get_the_same_name():
    assert len({site_label(name) for name in (*NAMES, "south_1", "SOUTH-1", "a" * 63, "a" * 62 + "b")}) == 8
    assert site_label("north") == "hospital-north"


def test_the_copying_of_a_kit_does_what_it_should(out, tmp_path):
    """Runs the init container's script in folders of its own."""
    (pod,) = pods(out / "kubernetes" / f"{site_label('north')}.yaml")
    site, secrets = tmp_path / "site", tmp_path / "secrets"
    for part, name in (("startup", "client.key"), ("local", "resources.json")):
        (secrets / f"north-{part}").mkdir(parents=True)
        (secrets / f"north-{part}" / name).write_text("secret")
    (site / "north" / "fedka").mkdir(parents=True)
    for name in ("hospital.yaml", "archive.safetensors"):
        (site / "north" / "fedka" / name).touch()
    shell, option, script = pod.initContainers[0].command
    script = script.replace("cd /site", f"cd {site}").replace("/secrets/", f"{secrets}/")
    subprocess.run([shell, option, script], check=True, timeout=20)
    key = site / "north" / "startup" / "client.key"
    assert key.stat().st_mode & 0o777 == 0o600 and (site / "north").stat().st_mode & 0o777 == 0o700
    assert (site / "north" / "local" / "resources.json").read_text() == "secret"


@pytest.mark.parametrize("host", ["fedka.example", "localhost"])
def test_the_composition_is_one_and_each_service_mounts_its_own_kit(tmp_path, host):
    write_manifests(tmp_path / "out", tmp_path, NAMES, host=host, port=8102, metrics_port=9102)
    made = Compose.model_validate(yaml.safe_load((tmp_path / "out" / "compose.yaml").read_text()))
    assert set(made.services) == {"server", "run", *map(site_label, NAMES)}
    for name in NAMES:
        (bind,) = made.services[site_label(name)].volumes
        assert (bind.source, bind.target) == (str(tmp_path / "hospitals" / name), f"/site/{name}")
    assert made.networks["federation"].internal
    for name, service in made.services.items():
        attached = service.networks or service.network_mode
        assert attached in (["federation"], "service:server") or (name == "server" and service.networks["federation"].aliases == [host])


def test_without_metrics_nobody_is_asked(tmp_path):
    write_manifests(tmp_path / "out", tmp_path, NAMES, host="localhost", port=8102, metrics_port=None)
    (pod,) = pods(tmp_path / "out" / "kubernetes" / "server.yaml")
    assert pod.containers[1].livenessProbe is None
    assert "healthcheck" not in (tmp_path / "out" / "compose.yaml").read_text()


def sections(unit: str) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for line in unit.splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, line
            section.append((key, value))
    return found


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_closed_and_comes_back(name):
    service = sections(UNITS[name])["Service"]
    keys = [key for key, _ in service]
    said = dict(service)
    assert len(set(keys)) == len(keys)
    assert said["Restart"] == ("on-failure" if name == "fedka-run.service" else "always")
    assert (said["NoNewPrivileges"], said["ProtectSystem"], said["PrivateTmp"]) == ("yes", "strict", "yes")
    assert all(each.startswith(HOME + "/") for each in said["ReadWritePaths"].split())
    assert said["User"] == "fedka" and said["CapabilityBoundingSet"] == "" and said["ExecStart"].startswith(PROGRAM)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")
def test_systemd_finds_nothing_wrong_with_the_units(out, tmp_path):
    paths = []
    for path in (out / "systemd").iterdir():
        instance = tmp_path / path.name.replace("@.", "@north.")
        instance.write_text(path.read_text().replace(PROGRAM, sys.executable))
        paths.append(str(instance))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr


def test_no_secret_stands_in_any_manifest(out):
    for path in out.rglob("*"):
        if path.is_file():
            assert "BEGIN" not in path.read_text() and "password" not in path.read_text().lower()
