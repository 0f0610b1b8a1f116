"""What stays the same through a run: experiment, data, plan, test images. And the simulation's truth, for measuring only."""

from dataclasses import dataclass
from pathlib import Path

import torch

from federation.config import ExperimentConfig
from federation.evaluation import Evaluator
from federation.ward import Ward
from incremental.device import CPU, DeviceError, device_title, pick_device
from physical.datasets import ImageDataset, load_dataset
from physical.planning import plan_scenario
from physical.scenario import Scenario


class StudyError(ValueError):
    """An experiment whose data cannot serve it: what, got, what to do."""


@dataclass(frozen=True)
class Study:
    """What stays the same through a run.

    Args:
        config: The experiment.
        dataset: Its images.
        scenario: Who sees what when.
        evaluator: Its test images.
    """

    config: ExperimentConfig
    dataset: ImageDataset
    scenario: Scenario
    evaluator: Evaluator

    @property
    def accelerator(self) -> str | None:
        """What networks run on beside the processor."""
        device = device_of(self.config)
        return None if device.type == "cpu" else device_title(device)

    def ward(self) -> Ward:
        """Return the hospitals of the scenario."""
        plans = self.scenario.hospitals
        return Ward(
            self.dataset.train,
            self.scenario.arrivals,
            {hospital_id: plan.joins_at_task * self.scenario.rounds_per_task for hospital_id, plan in plans.items()},
            self.config.setting(),
            device_of(self.config),
        )

    def unknown_arrived(self, twin_id: str, round_number: int, known: tuple[str, ...]) -> bool:
        """Return whether images of a class that the federation does not know have reached a twin by a round."""
        first = self.scenario.hospitals[twin_id].first_arrivals()
        return any(since <= round_number and name not in known for name, since in first.items())


def device_of(config: ExperimentConfig) -> torch.device:
    """Return where the networks of an experiment run.

    Raises:
        DeviceError: If that is a GPU and there is none, or training is private.
    """
    if config.training.private is None:
        return pick_device(config.engine.device)
    if config.engine.device == "cuda":
        raise DeviceError("engine.device is 'cuda' and training is private, whose noise is drawn on the CPU; set engine.device to 'cpu'")
    return CPU


def prepare_study(config: ExperimentConfig, data_dir: Path | None = None) -> Study:
    """Load the data and make the plan.

    Raises:
        StudyError: If there is nothing to measure on.
    """
    dataset = load_dataset(config.scenario.dataset, data_dir, holdout_validation=config.evaluation.split == "validation")
    scenario = plan_scenario(dataset.train.labels, dataset.sheet.class_names, config.scenario, config.hospitals, config.seed)
    measured = dataset.test if config.evaluation.split == "test" else dataset.validation
    if not len(measured):
        raise StudyError(f"{config.scenario.dataset} has no {config.evaluation.split} images; set evaluation.split to test")
    return Study(config, dataset, scenario, Evaluator(measured, scenario.tasks, config.network, device_of(config)))
