"""Reports of the twins of a run that is not running, from its last checkpoint."""

from pathlib import Path
from typing import Any

from federation.engines.twin_states import StateFolder
from federation.experiment.checkpoint import load_checkpoint
from federation.experiment.config import from_plain
from federation.experiment.run_folder import RunFolder
from federation.experiment.setup import prepare_experiment


def reports_of_run(run: Path, data_dir: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return reported and desired state of every twin that has taken part, by id.

    Args:
        run: A run folder with at least one finished round.
        data_dir: Where the user keeps data files.
    """
    folder = RunFolder(run)
    checkpoint = load_checkpoint(folder.checkpoints)
    states = StateFolder(folder.twins, until=checkpoint.states_until)
    hospitals = prepare_experiment(
        from_plain(folder.read_json("config.json")), data_dir
    ).hospitals()
    known = {twin_id: states.get(twin_id) for twin_id in hospitals.joins}
    return {
        twin_id: hospitals.twin(twin_id, state).report()
        for twin_id, state in known.items()
        if state is not None
    }
