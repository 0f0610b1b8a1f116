"""Kubernetes' objects against its published schemas.

Against pydantic models of the parts that are used, which are stricter.

A field that is not in a model is refused, so a misspelt or unknown field of ours is found; what a
real cluster says is not known. That no secret stands in a manifest is asked here of every file that
is written, Compose's and systemd's too.
"""

import re
import subprocess
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]  # has no types
import pytest
import yaml
from pydantic import ValidationError

from federation.flare.kubernetes import site_label
from federation.flare.manifests import write_manifests
from tests.federation.flare.hospital_names import NAMES
from tests.federation.flare.manifest_models import Kubernetes, Pod, StatefulSet


def pods(path: Path) -> list[Pod]:
    objects = [Kubernetes.validate_python(each) for each in yaml.safe_load_all(path.read_text())]
    return [each.spec.template.spec for each in objects if isinstance(each, StatefulSet)]


def test_every_kubernetes_object_is_of_its_kind(out: Path) -> None:
    for path in sorted((out / "kubernetes").iterdir()):
        (pod,) = pods(path)
        volumes = {each.name for each in pod.volumes} | {"site"}
        for container in (*pod.initContainers, *pod.containers):
            assert {each.name for each in container.volumeMounts} <= volumes


def test_every_kubernetes_object_is_valid_by_the_published_schemas(out: Path) -> None:
    objects = [
        each
        for path in sorted((out / "kubernetes").glob("*.yaml"))
        for each in yaml.safe_load_all(path.read_text())
    ]
    assert len(objects) >= 2 * len(NAMES)
    for each in objects:
        kubernetes_validate.validate(each, "1.37", strict=True)
    broken = next(each for each in objects if each["kind"] == "StatefulSet")
    broken["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_a_misspelt_field_would_be_found(out: Path) -> None:
    plain = next(yaml.safe_load_all((out / "kubernetes" / "server.yaml").read_text()))
    with pytest.raises(ValidationError):
        Kubernetes.validate_python({**plain, "specs": {}})


def test_the_server_is_asked_whether_it_is_well_and_reached_before_its_run_is(out: Path) -> None:
    (pod,) = pods(out / "kubernetes" / "server.yaml")
    server, run = pod.containers
    assert run.livenessProbe is not None
    assert run.livenessProbe.httpGet is not None
    assert run.readinessProbe is not None
    assert run.readinessProbe.httpGet is not None
    assert (run.livenessProbe.httpGet.path, run.readinessProbe.httpGet.path) == (
        "/healthz",
        "/readyz",
    )
    assert "0.0.0.0" in run.args  # a probe comes from outside the pod
    assert server.livenessProbe is not None
    assert server.livenessProbe.tcpSocket is not None
    assert server.livenessProbe.tcpSocket.port == 8102
    service = next(yaml.safe_load_all((out / "kubernetes" / "server.yaml").read_text()))
    assert service["spec"]["publishNotReadyAddresses"] is True


@pytest.mark.parametrize("name", NAMES)
def test_a_hospitals_manifest_knows_its_own_kit_and_no_others(out: Path, name: str) -> None:
    text = (out / "kubernetes" / f"{site_label(name)}.yaml").read_text()
    for other in set(NAMES) - {name}:
        assert not re.search(
            rf"(?<![\w-]){re.escape(other)}(?![\w-])|{re.escape(site_label(other))}(?![\w-])", text
        )
    assert "operator" not in text and "authority" not in text and "PRIVATE" not in text
    (pod,) = pods(out / "kubernetes" / f"{site_label(name)}.yaml")
    assert {each.secret.secretName for each in pod.volumes if each.secret} == {
        f"fedka-{site_label(name)}-{part}" for part in ("startup", "local")
    }
    assert all(not each.ports for each in pod.containers)


def test_two_hospitals_never_get_the_same_name() -> None:
    assert (
        len({site_label(name) for name in (*NAMES, "south_1", "SOUTH-1", "a" * 63, "a" * 62 + "b")})
        == 8
    )
    assert site_label("north") == "hospital-north"


def test_the_copying_of_a_kit_does_what_it_should(out: Path, tmp_path: Path) -> None:
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


def test_without_metrics_nobody_is_asked(tmp_path: Path) -> None:
    write_manifests(
        tmp_path / "out", tmp_path, NAMES, host="localhost", port=8102, metrics_port=None
    )
    (pod,) = pods(tmp_path / "out" / "kubernetes" / "server.yaml")
    assert pod.containers[1].livenessProbe is None
    assert "healthcheck" not in (tmp_path / "out" / "compose.yaml").read_text()


def test_no_secret_stands_in_any_manifest(out: Path) -> None:
    for path in out.rglob("*"):
        if path.is_file():
            assert "BEGIN" not in path.read_text() and "password" not in path.read_text().lower()
