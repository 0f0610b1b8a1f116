"""Who may join a deployment and what a job may do there.

One real server, one right hospital, and everybody else at the gate.
"""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation.experiment.config import load_experiment
from federation.flare.engine import LinkConfig
from federation.flare.local_processes import isolated
from federation.flare.provisioning import DeployError, Deployment, init_deployment
from federation.flare.server import ServerConfig

pytest.importorskip("nvflare")
from federation.flare.flare_job import write_job

ROOT = Path(__file__).parents[3]
MOST_SECONDS = 400.0
SMALL = (
    "method=fedavg",
    "scenario.rounds_per_task=1",
    "federation.settle_rounds=0",
    "evaluation.round_images=20",
    "tracking.enabled=false",
)
BAD = ("a self-signed", "another authority's", "an expired")
PROCESS = {"server": "server", "hospital": "right"}
pytestmark = pytest.mark.slow


def deploy(folder: Path) -> Deployment:
    config = load_experiment(ROOT / "hospital_configs" / "phantom_tiny", SMALL)
    return init_deployment(
        config, folder, ServerConfig((), LinkConfig(hello_seconds=3)), host="localhost", port=8102
    )


def copied(kit: Path, folder: Path) -> Path:
    """Return a copy of a kit; its name is the one under which the hospital comes."""
    return Path(shutil.copytree(kit, folder / kit.name))


def name_of(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "federation"),
        ]
    )


def with_certificate(kit: Path, authority: Path | None, days: int) -> Path:
    """Give a kit another key, and a certificate in its own name: of the authority, or self-signed.

    It ends in so many days.
    """
    key = rsa.generate_private_key(65537, 2048)
    issuer, signer = name_of(kit.name), key
    if authority is not None:
        state = json.loads(authority.read_text())
        root = x509.load_pem_x509_certificate(state["root_cert"].encode())
        issuer, signer = (
            root.subject,
            serialization.load_pem_private_key(state["root_pri_key"].encode(), None),  # type: ignore[assignment]  # changes its type
        )
    end = datetime.now(UTC) + timedelta(days=days)
    built = (
        x509.CertificateBuilder()
        .subject_name(name_of(kit.name))
        .issuer_name(issuer)
        .public_key(key.public_key())
    )
    built = (
        built.serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=30))
        .not_valid_after(end)
    )
    built = built.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    built = built.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
    )
    (kit / "startup" / "client.crt").write_bytes(
        built.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (kit / "startup" / "client.key").write_bytes(pem)
    return kit


def lets_code_pass(kit: Path) -> None:
    """Make a server that refuses no code and no command, as one in wrong hands would.

    What is refused then, hospitals refuse.
    """
    resources = json.loads((kit / "local" / "resources.json").read_text())
    del resources["app_validator"]
    (kit / "local" / "resources.json").write_text(json.dumps(resources))
    (kit / "local" / "authorization.json").unlink()


def job(folder: Path, ran: Path, *, component: str = "", code: str = "") -> None:
    """Write a job of our two classes that makes a file.

    Where a component that is not ours is built, or code that it brings is run.
    """
    write_job(folder, ["north"])
    name = {"server": "config_fed_server.json", "hospital": "config_fed_client.json"}
    for where in filter(None, (component, code)):
        path = folder / where / "config" / name[where]
        plain = json.loads(path.read_text())
        built = (
            {"path": "subprocess.Popen", "args": {"args": ["touch", str(ran)]}}
            if component
            else {"path": "brought.Brought", "args": {}}
        )
        plain["components"].insert(0, {"id": "more", **built})
        path.write_text(json.dumps(plain))
    if code:
        (folder / code / "custom").mkdir()
        (folder / code / "custom" / "brought.py").write_text(
            f"from pathlib import Path\nPath({str(ran)!r}).touch()\nclass Brought:\n    pass\n"
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was seen at one server: ``seen.json``, and a log of each process."""
    try:
        isolated(["true"])
    except DeployError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("gate")
    made, other = deploy(folder / "deployment"), deploy(folder / "other")
    lets_code_pass(made.server)
    authority = made.authority / "cert.json"
    east, north = made.hospital("east"), made.hospital("north")
    impostor = copied(made.operator, folder / "impostor")
    for each in ("client.crt", "client.key"):
        shutil.copy(north / "startup" / each, impostor / "startup" / each)
    foreign_operator = copied(other.operator, folder / "foreign operator")
    shutil.copy(
        made.operator / "startup" / "rootCA.pem", foreign_operator / "startup" / "rootCA.pem"
    )  # which is no secret
    kits = {
        "server": made.server,
        "right": north,
        "foreign": other.hospital("south"),
        "self-signed": with_certificate(copied(east, folder / "self-signed"), None, 365),
        "expired": with_certificate(copied(east, folder / "expired"), authority, -1),
        "renamed": Path(shutil.copytree(made.hospital("south"), folder / "renamed" / "west")),
        "operator": made.operator,
        "foreign operator": foreign_operator,
        "a hospital as operator": impostor,
    }
    (folder / "kits.json").write_text(json.dumps({name: str(kit) for name, kit in kits.items()}))
    for name, more in (
        ("class-at-server", {"component": "server"}),
        ("class-at-hospital", {"component": "hospital"}),
        ("code-at-hospital", {"code": "hospital"}),
        ("ours", {}),
    ):
        job(folder / "jobs" / name, folder / f"ran-{name}", **more)
    command = isolated(
        [sys.executable, str(Path(__file__).with_name("gate_child.py")), str(folder)]
    )
    with (folder / "child.log").open(
        "wb"
    ) as log:  # whatever happens, nothing of its process namespace outlives it
        subprocess.run(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            timeout=MOST_SECONDS,
            check=False,
        )
    assert (folder / "seen.json").exists(), (folder / "child.log").read_text()[-2000:]
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "seen.json").read_text())


@pytest.fixture(scope="module")
def server_log(folder: Path) -> str:
    return (folder / "server.log").read_text()


def test_the_right_hospital_joins_and_nobody_else_does(seen: dict[str, Any]) -> None:
    assert seen["joined"] == ["north"] == seen["clients"]
    assert seen["TLS with the right certificate"] == "open"


@pytest.mark.parametrize(
    "way", ["without a certificate", *(f"with {each} certificate" for each in BAD)]
)
def test_no_connection_is_kept_up_without_a_certificate_of_this_authority_that_has_not_ended(
    seen: dict[str, Any], way: str
) -> None:
    assert seen[f"TLS {way}"].startswith("SSL")


def test_strangers_who_connect_and_say_nothing_keep_nobody_out(
    seen: dict[str, Any], server_log: str
) -> None:
    assert seen["joined"] == ["north"]
    assert (
        "refused a connection from" in server_log and "handshake operation timed out" in server_log
    )


def test_a_connection_without_tls_is_cut(seen: dict[str, Any]) -> None:
    assert seen["plain TCP"].startswith(("ConnectionResetError", "answered b''"))


def test_a_hospitals_certificate_is_good_for_its_own_name_only(server_log: str) -> None:
    assert (
        "authenticated as 'south' but claimed endpoint 'west' requires identity 'west'"
        in server_log
    )


def test_a_hospital_of_another_authority_does_not_speak_to_this_server_either(folder: Path) -> None:
    assert "certificate verify failed" in (folder / "foreign.log").read_text()


def test_the_operator_gets_a_session_and_another_deployments_operator_does_not(
    seen: dict[str, Any],
) -> None:
    assert "has a session and sees ['north']" in seen["operator"]
    assert "has a session" not in seen["foreign operator"]
    assert any(
        why in seen["foreign operator"]
        for why in ("InvalidCertChain", "alert unknown ca", "NoConnection")
    )


def test_a_hospitals_certificate_makes_no_operator(seen: dict[str, Any], server_log: str) -> None:
    assert "has a session" not in seen["a hospital as operator"]
    assert "failed to verify client identity: CNMismatch" in server_log


@pytest.mark.parametrize("where", ["server", "hospital"])
def test_a_job_that_names_a_class_outside_the_list_builds_nothing_there(
    seen: dict[str, Any], folder: Path, where: str
) -> None:
    ended = json.loads(seen[f"class-at-{where}"]["meta"])
    assert ended["status"] in (
        "FINISHED:EXECUTION_EXCEPTION",
        "FINISHED:ABNORMAL",
        "FINISHED:ABORTED",
    )
    kit = folder / "deployment" / ("server" if where == "server" else "hospitals/north")
    said = "".join(
        path.read_text()
        for path in (*kit.rglob("log.jsonl"), *kit.rglob("*.log"), folder / f"{PROCESS[where]}.log")
    )
    assert "ComponentNotAuthorized" in said and "'subprocess.Popen'" in said
    assert not (folder / f"ran-class-at-{where}").exists()


def test_code_that_a_job_brings_is_refused_by_the_hospital_though_its_server_lets_it_pass(
    seen: dict[str, Any], folder: Path
) -> None:
    ended = json.loads(seen["code-at-hospital"]["meta"])
    assert ended["status"] == "FINISHED:FAILED_TO_RUN"
    refused = (
        "north: NVFLARE_ERROR: the application brings custom/brought.py; allowed here: its "
        "configuration and nothing else"
    )
    assert {"server: OK", refused} <= set(ended["job_deploy_detail"])
    assert not (folder / "ran-code-at-hospital").exists()


def test_a_job_of_our_two_classes_runs(seen: dict[str, Any]) -> None:
    ended = json.loads(seen["ours"]["meta"])
    assert ended["status"] == "FINISHED:COMPLETED" and ended["job_deploy_detail"] == [
        "server: OK",
        "north: OK",
    ]


@pytest.mark.parametrize(
    "command", ["cat north startup/fed_client.json", "ls north", "sys_info client north"]
)
def test_nobody_reads_a_hospitals_machine_through_its_server(
    seen: dict[str, Any], command: str
) -> None:
    assert "invalid_request" in seen[command] and "fedka" not in seen[command]
    assert (
        "ssl_private_key" in seen["cat server startup/fed_server.json"]
    )  # this server would have let it pass


def test_no_process_is_left(folder: Path) -> None:
    assert not [
        each
        for each in psutil.process_iter(["cmdline"])
        if any(str(folder) in part for part in each.info["cmdline"] or ())
    ]
