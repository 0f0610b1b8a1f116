"""Setup of an experiment: configuration, data set, scenario and test images, fixed for a run."""

from dataclasses import dataclass
from pathlib import Path

from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.experiment.config import ExperimentConfig
from federation.experiment.evaluation import Evaluator
from incremental.device import CPU, device_title
from physical.datasets import ImageDataset, load_dataset
from physical.planning import plan_scenario
from physical.scenario import Scenario


class SetupError(ValueError):
    """An experiment whose data cannot serve it: what, got, what to do."""


@dataclass(frozen=True)
class ExperimentSetup:
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
        device = self.config.device
        return None if device == CPU else device_title(device)

    def hospitals(self) -> SimulatedHospitals:
        """Return the hospitals of the scenario."""
        plans = self.scenario.hospitals
        return SimulatedHospitals(
            self.dataset.train,
            self.scenario.arrivals,
            {
                hospital_id: plan.joins_at_task * self.scenario.rounds_per_task
                for hospital_id, plan in plans.items()
            },
            self.config.setting(),
            self.config.device,
        )

    def unknown_arrived(self, twin_id: str, round_number: int, known: tuple[str, ...]) -> bool:
        """Return whether images of a class unknown to the federation have reached a twin."""
        first = self.scenario.hospitals[twin_id].first_arrivals()
        return any(since <= round_number and name not in known for name, since in first.items())


def prepare_experiment(config: ExperimentConfig, data_dir: Path | None = None) -> ExperimentSetup:
    """Load the data and make the plan.

    Raises:
        SetupError: If there is nothing to measure on.
        DeviceError: If the experiment asks for a device that is not there.
    """
    dataset = load_dataset(
        config.scenario.dataset,
        data_dir,
        holdout_validation=config.evaluation.split == "validation",
    )
    scenario = plan_scenario(
        dataset.train.labels,
        dataset.sheet.class_names,
        config.scenario,
        config.hospitals,
        config.seed,
    )
    measured = dataset.test if config.evaluation.split == "test" else dataset.validation
    if not len(measured):
        raise SetupError(
            f"{config.scenario.dataset} has no {config.evaluation.split} images; set "
            "evaluation.split to test"
        )
    evaluator = Evaluator(measured, scenario.tasks, config.network, config.device)
    for key in ("round_images", "task_images"):
        most = getattr(config.evaluation, key)
        task = evaluator.unmeasured_task(most) if most else None
        if task is not None:
            raise SetupError(
                f"evaluation.{key} is {most}, which leaves no image to measure task {task + 1} on; "
                f"allowed: more, about {10 * sum(map(len, scenario.tasks))} for ten of each class"
            )
    return ExperimentSetup(config, dataset, scenario, evaluator)
