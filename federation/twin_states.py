"""Twins of a run that is not running: put together again from its last checkpoint, to be asked for their state. Trains nothing."""

from pathlib import Path
from typing import Any

from federation.checkpoint import load_checkpoint
from federation.config import from_plain
from federation.experiment import ward_of
from federation.run_folder import RunFolder
from physical.datasets import load_dataset
from physical.scenario import plan_scenario


def reports_of_run(run: Path) -> dict[str, dict[str, Any]]:
    """Return reported and desired state of every twin that has taken part, by id.

    Args:
        run: A run folder with at least one finished round.
    """
    folder = RunFolder(run)
    checkpoint = load_checkpoint(folder.checkpoints)
    config = from_plain(folder.read_json("config.json"))
    dataset = load_dataset(config.scenario.dataset)
    scenario = plan_scenario(dataset.train.labels, dataset.sheet.class_names, config.scenario, config.hospitals, config.seed)
    ward = ward_of(config, dataset, scenario)
    return {twin_id: ward.twin(twin_id, state).report() for twin_id, state in checkpoint.twins.items()}
