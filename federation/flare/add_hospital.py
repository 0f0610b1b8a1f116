"""Adds a hospital to a deployment: makes its start-up kit anew by the same authority.

Who takes part, and in which order, decides what every twin draws; so a hospital that the experiment
does not name cannot enter a run that has begun. One that comes later is planned from the beginning,
with ``joins_at_task``.
"""

import json
import shutil
import tempfile
from pathlib import Path

import yaml

from federation.experiment.setup import prepare_experiment
from federation.flare.event_feed import write_atomically
from federation.flare.kit_settings import settle_hospital
from federation.flare.provisioning import (
    AUTHORITY_FILE,
    PROJECT_FILE,
    PUBLIC_KEYS_FILE,
    DeployError,
    Deployment,
    make_kits,
    pin_keys,
    write_hospital,
)


def add_hospital(made: Deployment, name: str) -> tuple[Path, str]:
    """Make a kit for a hospital, with a key of its own and its own images.

    The certificate that it had before stays valid until it ends: FLARE keeps no list of revoked
    ones.

    Args:
        made: The deployment, with its authority.
        name: Of the hospital.

    Returns:
        Its kit, and its new public key, which the others must pin.

    Raises:
        DeployError: If the experiment does not plan it, its kit is here, or the authority is not.
    """
    experiment, kit = made.place.experiment, made.hospital(name)
    planned = tuple(each.name for each in experiment.hospitals)
    if name not in planned:
        raise DeployError(
            f"the experiment plans no hospital {name!r}; planned: {', '.join(planned)}; who takes "
            "part decides what every twin draws, so a "
            "hospital enters a run only as planned: write it into the experiment, with "
            "joins_at_task, and make a new deployment"
        )
    if kit.exists():
        raise DeployError(
            f"{kit} is there; hand it out, or move it away first: a new kit gets a new key"
        )
    try:
        authority = json.loads((made.authority / AUTHORITY_FILE).read_text(encoding="utf-8"))
        public = json.loads((made.authority / PUBLIC_KEYS_FILE).read_text(encoding="utf-8"))
        project = yaml.safe_load((made.authority / PROJECT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DeployError(
            f"{made.authority} cannot be read: {error}; put the authority's folder back from where "
            "it is kept"
        ) from error
    authority.pop(name, None)
    data = made.place.config.data
    hospitals = (
        None
        if made.place.config.own_images
        else prepare_experiment(experiment, None if data is None else Path(data)).hospitals()
    )
    kit.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.folder) as scratch:
        kits = make_kits(project, Path(scratch), json.dumps(authority))
        new = kits / "prod_00" / name
        public[name] = write_hospital(new, name, hospitals)
        settle_hospital(new)
        write_atomically(
            made.authority / AUTHORITY_FILE,
            (kits / "state" / AUTHORITY_FILE).read_text(encoding="utf-8"),
        )
        (made.authority / AUTHORITY_FILE).chmod(0o600)
        shutil.move(new, kit)
    pin_keys(made, [name], public)
    return kit, public[name]
