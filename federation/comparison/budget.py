"""Budget of a comparison: what every method gets alike, and what each then cost."""

from collections.abc import Mapping
from typing import Any

from federation.experiment.config import ExperimentConfig


def budget_of(config: ExperimentConfig) -> dict[str, Any]:
    """Return what must be equal for a comparison to be fair.

    Data, rounds, epochs, exemplars, participation, network.

    Learning rate, loss and hyper-parameters may differ: they belong to the method.
    """
    scenario = config.scenario
    return {
        "data set": scenario.dataset,
        "tasks": f"{scenario.num_tasks} x {scenario.classes_per_task} classes",
        "images": (
            scenario.images,
            scenario.images_per_class,
            scenario.heterogeneity,
            scenario.dirichlet_alpha,
            scenario.keep_fraction,
            scenario.arrivals_per_task,
            scenario.class_order,
        ),
        "held-back share": config.twin.held_back_fraction,
        "hospitals": tuple(
            (each.name, each.joins_at_task, each.share, each.heterogeneity)
            for each in config.hospitals
        ),
        "twins per round": config.federation.twins_per_round,
        "rounds per task": scenario.rounds_per_task,
        "epochs per round": config.training.epochs,
        "batch size": config.training.batch_size,
        "exemplars per twin": config.twin.memory_capacity,
        "network": tuple(
            vars(config.network).get(name)
            for name in ("backbone", "width", "norm", "image_size", "channels")
        ),
        "evaluation split": config.evaluation.split,
    }


def check_equal_budget(
    configs: Mapping[str, ExperimentConfig], reference: str, excuses: Mapping[str, str]
) -> str | None:
    """Return what is wrong with the budgets of a comparison.

    Nothing where they are equal or the cell says why not.

    Args:
        configs: Experiment of each cell.
        reference: The cell that the others are compared with.
        excuses: Of each cell, why its budget may differ; empty: it may not.
    """
    like = budget_of(configs[reference])
    for label, config in configs.items():
        own = budget_of(config)
        differing = [name for name in like if own[name] != like[name]]
        if differing and not excuses.get(label):
            what = "; ".join(
                f"{name} is {own[name]} and {like[name]} for {reference}" for name in differing
            )
            return (
                f"budget of {label} differs: {what}; methods are compared on equal terms: make it "
                "equal, or say why in budget_differs"
            )
    return None


def budget_line(config: ExperimentConfig) -> str:
    """Return the common terms of a comparison in one sentence."""
    scenario, most = config.scenario, config.evaluation.task_images
    images = (
        "all images"
        if scenario.images_per_class is None
        else f"{scenario.images_per_class} training images"
    )
    return (
        f"{scenario.dataset}, {scenario.num_tasks} tasks of {scenario.classes_per_task} classes, "
        f"{images} per class ({scenario.images}), "
        f"heterogeneity {scenario.heterogeneity:g}; {len(config.hospitals)} hospitals by the end, "
        f"{config.federation.twins_per_round} train in each round; {scenario.rounds_per_task} "
        "rounds per task, "
        f"{config.training.epochs} epoch{'s' * (config.training.epochs > 1)} per round, batches of "
        f"{config.training.batch_size}; "
        f"{config.twin.memory_capacity} exemplars per twin; "
        f"{config.network.backbone} of width {config.network.width} at {config.network.image_size} "
        "px; "
        f"measured on {'all' if most is None else f'at most {most:,}'} images of the "
        f"{config.evaluation.split} split after each task"
    )
