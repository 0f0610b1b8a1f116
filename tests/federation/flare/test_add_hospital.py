import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from federation.flare.provisioning import Deployment

pytest.importorskip("nvflare")
from federation.experiment.config import load_experiment
from federation.flare.add_hospital import add_hospital
from federation.flare.certificates import certificate_findings, load_certificate
from federation.flare.deployment_check import check, is_fit
from federation.flare.provisioning import DeployError, init_deployment
from federation.flare.server import ServerConfig

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    config = load_experiment(ROOT / "hospital_configs" / "phantom_tiny")
    folder = tmp_path_factory.mktemp("adding") / "deployment"
    return init_deployment(config, folder, ServerConfig(()), host="localhost", port=8102)


def files(made: Deployment) -> dict[Path, bytes]:
    kits = (
        made.server,
        made.operator,
        *(made.hospital(name) for name in ("east", "north", "south")),
    )
    return {path: path.read_bytes() for kit in kits for path in kit.rglob("*") if path.is_file()}


def test_a_lost_kit_is_made_again_by_the_same_authority_and_the_others_stay_as_they_are(
    made: Deployment,
) -> None:
    lost = made.folder / "lost"
    shutil.move(made.hospital("west"), lost)
    others = files(made)
    kit, public = add_hospital(made, "west")
    assert kit == made.hospital("west") and files(made) == others
    found = list(
        certificate_findings("west", kit / "startup", "client", "west", None, datetime.now(UTC))
    )
    assert {each.level for each in found} == {"ok"}
    assert (kit / "startup" / "rootCA.pem").read_bytes() == (
        made.server / "startup" / "rootCA.pem"
    ).read_bytes()
    old, new = (load_certificate(each / "startup" / "client.crt") for each in (lost, kit))
    assert old.serial_number != new.serial_number and old.public_key() != new.public_key()
    before, after = (load_file(each / "fedka" / "archive.safetensors") for each in (lost, kit))
    assert before.keys() == after.keys() and all(
        np.array_equal(before[name], after[name]) for name in before
    )
    pinned = [
        yaml.safe_load((each / "fedka" / "hospital.yaml").read_text())["masking"]["pinned_keys"]
        for each in (lost, kit)
    ]
    assert pinned[1] == {**pinned[0], "west": public} and pinned[0]["west"] != public
    assert is_fit(check(made.folder))


def test_a_hospital_that_the_experiment_does_not_plan_cannot_be_added(made: Deployment) -> None:
    before = (made.authority / "cert.json").read_bytes()
    with pytest.raises(
        DeployError, match="plans no hospital 'nowhere'; planned: east, north, south, west"
    ):
        add_hospital(made, "nowhere")
    assert (made.authority / "cert.json").read_bytes() == before and not made.hospital(
        "nowhere"
    ).exists()


def test_a_kit_that_is_there_is_not_made_again(made: Deployment) -> None:
    with pytest.raises(DeployError, match="move it away first"):
        add_hospital(made, "north")


def test_without_the_authority_nobody_can_be_added(made: Deployment, tmp_path: Path) -> None:
    shutil.copytree(
        made.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("authority", "south")
    )
    with pytest.raises(DeployError, match="put the authority's folder back"):
        add_hospital(Deployment(tmp_path / "copy"), "south")


def test_the_authoritys_key_stays_the_same_and_private(made: Deployment) -> None:
    state = made.authority / "cert.json"
    assert state.stat().st_mode & 0o777 == 0o600
    assert (
        json.loads(state.read_text())["root_cert"]
        == (made.server / "startup" / "rootCA.pem").read_text()
    )
