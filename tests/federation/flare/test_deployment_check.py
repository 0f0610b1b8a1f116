import json
import shutil
import socket
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from federation.flare.provisioning import Deployment

pytest.importorskip("nvflare")
from federation.cli import deploy as command
from federation.experiment.config import load_experiment
from federation.flare import deployment_check as room
from federation.flare.deployment_check import check, is_fit
from federation.flare.engine import LinkConfig
from federation.flare.kit import read_kit
from federation.flare.kit_settings import settle_stores
from federation.flare.provisioning import DeployError, init_deployment
from federation.flare.server import ServerConfig

ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    config = load_experiment(ROOT / "hospital_configs" / "phantom_tiny")
    server = ServerConfig((), LinkConfig(minimum_hospitals=2))
    return init_deployment(
        config,
        tmp_path_factory.mktemp("once") / "deployment",
        server,
        host="localhost",
        port=free_port(),
    )


@pytest.fixture
def made(once: Deployment, tmp_path: Path) -> Deployment:
    shutil.copytree(once.folder, tmp_path / "deployment")
    settle_stores(tmp_path / "deployment" / "server")
    return Deployment(tmp_path / "deployment")


def bad(folder: Path, **more: Any) -> dict[Any, Any]:
    return {(each.site, each.what): each for each in check(folder, **more) if each.level != "ok"}


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_yaml(path: Path, **values: Any) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))


def test_a_deployment_as_it_was_made_is_all_well(made: Deployment) -> None:
    assert bad(made.folder) == {}
    sites = {each.site for each in check(made.folder)}
    assert sites == {
        "localhost",
        "east",
        "north",
        "south",
        "west",
        "operator@federation.org",
        "deployment",
    }


def test_what_a_kit_is_stands_in_its_files(made: Deployment) -> None:
    kit = read_kit(made.hospital("west"))
    assert (kit.kind, kit.name, kit.base, kit.host) == ("hospital", "west", "client", "localhost")
    assert (
        read_kit(made.server).kind == "server"
        and read_kit(made.operator).name == "operator@federation.org"
    )


SPOILT = {
    "kit's permissions": lambda kit: kit.chmod(0o755),
    "key's permissions": lambda kit: (kit / "startup" / "client.key").chmod(0o604),
    "long-term key's permissions": lambda kit: (kit / "fedka" / "long_term.key").chmod(0o640),
    "classes a job may build": lambda kit: change_json(
        kit / "local" / "resources.json", class_allow_list=["*"]
    ),
    "allow-list": lambda kit: change_json(
        kit / "local" / "resources.json", class_list_enforcement_mode="off"
    ),
    "applications": lambda kit: change_json(kit / "local" / "resources.json", app_validator={}),
    "gate": lambda kit: change_json(kit / "local" / "resources.json", components=[]),
    "log streaming": lambda kit: change_json(
        kit / "local" / "resources.json", allow_log_streaming=True
    ),
    "resources.json": lambda kit: (kit / "local" / "resources.json").unlink(),
    "own name": lambda kit: change_yaml(kit / "fedka" / "hospital.yaml", hospital="north"),
    "hospital.yaml": lambda kit: change_yaml(kit / "fedka" / "hospital.yaml", nobody_knows=1),
    "archive": lambda kit: (kit / "fedka" / "archive.safetensors").write_bytes(b"no archive"),
    "records": lambda kit: change_json(kit / "fedka" / "made_with.json", records=0),
    "certificate": lambda kit: (kit / "startup" / "client.crt").write_text("no certificate"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_whatever_is_spoilt_at_a_hospital_is_found_there_and_nowhere_else(
    made: Deployment, what: Any
) -> None:
    SPOILT[what](made.hospital("west"))
    found = bad(made.folder)
    assert list(found) == [("west", what)]
    each = found["west", what]
    assert each.level == "error" and each.got and each.allowed and each.do
    assert not is_fit(check(made.folder))


def test_a_hospitals_kit_in_anothers_folder_is_found(made: Deployment) -> None:
    made.hospital("west").rename(made.folder / "hospitals" / "other")
    assert ("west", "kit's folder") in bad(made.folder / "hospitals" / "other")
    found = bad(made.folder)
    assert found["deployment", "kits"].got in ("also of other", "none of west here")


def test_flares_own_logs_are_a_warning(made: Deployment) -> None:
    (made.hospital("west") / "local" / "log_config.json").unlink()
    found = bad(made.folder)
    assert found["west", "logs"].level == "warning" and len(found) == 1


@pytest.mark.parametrize(
    ("what", "values"),
    [
        ("hospitals", {"hospitals": ["east", "north"]}),
        ("hospitals", {"hospitals": ["west", "south", "north", "east"]}),
        ("minimum", {"link": {"minimum_hospitals": 9}}),
        ("data", {"data": "/nowhere"}),
        ("server.yaml", {"nobody_knows": 1}),
    ],
)
def test_a_servers_file_that_does_not_fit_the_experiment_is_found(
    made: Deployment, what: Any, values: dict[Any, Any]
) -> None:
    change_yaml(made.place.folder / "server.yaml", **values)
    assert bad(made.folder)["localhost", what].level == "error"


def test_a_moved_server_is_told_so_and_mended_by_start(made: Deployment) -> None:
    made.server.rename(made.folder / "moved")
    moved = made.folder / "moved"
    assert bad(moved)["localhost", "FLARE's stores"].level == "warning"
    settle_stores(moved)
    assert ("localhost", "FLARE's stores") not in bad(moved)


def test_kits_of_two_deployments_do_not_go_together(made: Deployment) -> None:
    (made.hospital("west") / "startup" / "rootCA.pem").write_bytes(
        (made.hospital("west") / "startup" / "client.crt").read_bytes()  # not the authority's
    )
    found = bad(made.folder)
    assert ("deployment", "one authority") in found and ("west", "signed by") in found


def test_a_kit_that_was_handed_out_is_no_error(made: Deployment) -> None:
    shutil.move(made.hospital("west"), made.folder / "elsewhere")
    found = bad(made.folder)
    assert [each.level for each in found.values()] == ["warning"] and is_fit(check(made.folder))


def test_what_has_expired_is_an_error_everywhere(made: Deployment) -> None:
    later = datetime.now(UTC) + timedelta(days=400)
    found = bad(made.folder, clock=lambda: later)
    assert {site for site, what in found if what == "certificate"} >= {
        "localhost",
        "east",
        "north",
        "south",
        "west",
    }
    soon = bad(made.folder, clock=lambda: datetime.now(UTC) + timedelta(days=345))
    assert {each.level for each in soon.values()} == {"warning"} and is_fit(check(made.folder))


def test_a_hospital_sees_whether_the_server_answers(made: Deployment) -> None:
    kit = made.hospital("west")
    assert bad(kit)["west", "server"].level == "warning"
    with socket.create_server(("127.0.0.1", read_kit(kit).port)):
        assert bad(kit) == {}
        assert bad(made.server)["localhost", "port"].level == "warning"  # whoever has it


@pytest.mark.parametrize(("free", "level"), [(1 << 20, "error"), (1 << 30, "warning")])
def test_a_full_disk_is_found_before_it_is(
    made: Deployment, monkeypatch: pytest.MonkeyPatch, free: int, level: Any
) -> None:
    monkeypatch.setattr(
        room.shutil,  # type: ignore[attr-defined]  # looked up where it is used
        "disk_usage",
        lambda path: shutil._ntuple_diskusage(1 << 40, (1 << 40) - free, free),
    )
    found = bad(made.folder)
    assert {what for _, what in found} == {"free space"} and {
        each.level for each in found.values()
    } == {level}


def test_what_is_neither_kit_nor_deployment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="neither a kit nor a deployment"):
        check(tmp_path)
    (tmp_path / "startup").mkdir()
    (found,) = check(tmp_path)
    assert (found.what, found.level) == ("kit", "error")


def test_nothing_is_changed_by_looking(made: Deployment) -> None:
    before = {
        path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in made.folder.rglob("*")
    }
    check(made.folder)
    assert {
        path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in made.folder.rglob("*")
    } == before


def test_the_command_ends_with_two_on_an_error_and_with_nothing_on_a_warning(
    made: Deployment,
) -> None:
    runner = CliRunner()
    assert runner.invoke(command.app, ["check", str(made.hospital("west"))]).exit_code == 0
    made.hospital("west").chmod(0o755)
    ended = runner.invoke(command.app, ["check", "--bad", str(made.hospital("west"))])
    assert ended.exit_code == 2 and "1 errors, 1 warnings" in ended.output


def test_without_flare_the_command_says_what_to_install(
    made: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nvflare", None)
    ended = CliRunner().invoke(command.app, ["check", str(made.folder)])
    assert ended.exit_code == 2 and "pip install 'fedka[flare]'" in ended.output
