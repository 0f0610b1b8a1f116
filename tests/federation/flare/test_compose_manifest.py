"""The composition of a deployment's containers.

Against pydantic models of the parts of Compose that are used.
"""

from pathlib import Path

import pytest
import yaml

from federation.flare.kubernetes import site_label
from federation.flare.manifests import write_manifests
from tests.federation.flare.hospital_names import NAMES
from tests.federation.flare.manifest_models import Compose


@pytest.mark.parametrize("host", ["fedka.example", "localhost"])
def test_the_composition_is_one_and_each_service_mounts_its_own_kit(
    tmp_path: Path, host: str
) -> None:
    write_manifests(tmp_path / "out", tmp_path, NAMES, host=host, port=8102, metrics_port=9102)
    made = Compose.model_validate(yaml.safe_load((tmp_path / "out" / "compose.yaml").read_text()))
    assert set(made.services) == {"server", "run", *map(site_label, NAMES)}
    for name in NAMES:
        (bind,) = made.services[site_label(name)].volumes
        assert (bind.source, bind.target) == (str(tmp_path / "hospitals" / name), f"/site/{name}")
    assert made.networks["federation"].internal
    for name, service in made.services.items():
        attached = service.networks or service.network_mode
        assert attached in (["federation"], "service:server") or (
            name == "server" and service.networks["federation"].aliases == [host]  # type: ignore[call-overload]  # untyped
        )
