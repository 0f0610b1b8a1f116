"""Records of a run as plain data: lines of ``records.jsonl``, and results summed up from them."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import fsum
from typing import Any

import numpy as np

from federation.experiment import metrics
from federation.experiment.config import method_name
from federation.experiment.evaluation import Evaluation
from federation.experiment.run_folder import code_version
from federation.experiment.setup import ExperimentSetup
from federation.round import RoundRecord
from incremental.proxy import StoredModel
from twin.privacy.accounting import EPSILON


def round_record(
    setup: ExperimentSetup,
    record: RoundRecord,
    known: tuple[str, ...],
    evaluation: Evaluation | None,
    seconds: float,
) -> dict[str, Any]:
    """Return a round as plain data, with the truth of the simulation beside what twins noticed.

    Args:
        setup: What the round belongs to.
        record: What happened.
        known: Classes that the federation knew before the round.
        evaluation: Of the model after the round; none where it was not measured.
        seconds: How long the round took, measuring included.
    """
    told = [
        each.metrics for each in record.accepted if each.metrics.keys() - {EPSILON}
    ]  # a hospital may keep its losses to itself
    names = sorted({name for metrics in told for name in metrics} - {EPSILON})
    losses = {name: float(np.mean([metrics.get(name, 0.0) for metrics in told])) for name in names}
    spent = [each.metrics[EPSILON] for each in record.accepted if EPSILON in each.metrics]
    best = record.best
    plain = {
        "kind": "round",
        "round": record.round,
        "task": setup.scenario.task_at(record.round),
        "seconds": seconds,
        "chosen": list(record.chosen),
        "accepted": [
            twin_id for each in record.accepted for twin_id in each.summed or (each.twin_id,)
        ],
        "rejected": [{"twin": each.twin_id, "reason": each.reason} for each in record.rejected],
        "grew": list(record.grew),
        "num_classes": len(known) + len(record.grew),
        "losses": losses,
        "observations": [
            {
                "twin": each.twin_id,
                "signal": each.signal,
                "entropy": each.entropy,
                "statistic": each.statistic,
                "threshold": each.threshold,
                "new_class_names": list(each.new_class_names),
                "num_new_images": each.num_new_images,
                "is_boundary": setup.unknown_arrived(each.twin_id, record.round, known),
                "knows_nothing": not known,
                "watched": list(each.watched),
            }
            for each in record.observations
        ],
        "proxy_score": best.score.value if best and best.score else None,
        "best_round": best.round if best else None,
        "accuracy": evaluation.accuracy if evaluation else None,
        "macro_f1": evaluation.macro_f1 if evaluation else None,
        "images_trained": sum(each.num_images for each in record.accepted)
        * setup.config.training.epochs,
        "megabytes_up": record.bytes_up / 1e6,
        "megabytes_down": record.bytes_down / 1e6,
    }
    return {**plain, EPSILON: max(spent)} if spent else plain  # of the twin that has spent most


def task_record(
    setup: ExperimentSetup,
    task: int,
    round_number: int,
    evaluation: Evaluation,
    rows: Sequence[Sequence[float]],
) -> dict[str, Any]:
    """Return the end of a task as plain data.

    Args:
        setup: What the task belongs to.
        task: Its number, from 0.
        round_number: Its last round.
        evaluation: Of the model after it.
        rows: Rows of the accuracy matrix of the tasks before.
    """
    seen = [name for names in setup.scenario.tasks[: task + 1] for name in names]
    matrix = [*rows, list(evaluation.by_task)]
    per_class = metrics.accuracy_per_class(evaluation.confusion).tolist()
    return {
        "kind": "task",
        "task": task,
        "round": round_number,
        "seen_classes": seen,
        "accuracy": evaluation.accuracy,
        "macro_f1": evaluation.macro_f1,
        "per_class_accuracy": dict(zip(seen, per_class, strict=True)),
        "accuracy_row": list(evaluation.by_task),
        "confusion": evaluation.confusion.tolist(),
        "forgetting": metrics.forgetting(matrix, setup.evaluator.num_images()),
    }


def second_answer_record(name: str, evaluation: Evaluation) -> dict[str, Any]:
    """Return the measures of a method's second classifier at the end of a task, as plain data."""
    return {
        "name": name,
        "accuracy": evaluation.accuracy,
        "macro_f1": evaluation.macro_f1,
        "accuracy_row": list(evaluation.by_task),
    }


def model_facts(
    setup: ExperimentSetup, model: StoredModel, task: int, accuracy: float
) -> dict[str, Any]:
    """Return what is written beside a task's best model.

    Args:
        setup: What the model belongs to.
        model: The model.
        task: How many tasks had been closed before its own.
        accuracy: On the test images of all classes that had appeared by its last round.
    """
    return {
        "round": model.round,
        "score": None if model.score is None else model.score.value,
        "score_test": None if model.score is None else model.score.test,
        "dataset": setup.config.scenario.dataset,
        "dataset_digest": setup.dataset.digest,
        "evaluation_split": setup.config.evaluation.split,
        "test_accuracy": accuracy,
        "config_digest": setup.config.digest(),
        "code_version": code_version(),
        "task": task,
    }


def results_of(
    setup: ExperimentSetup, records: Sequence[Mapping[str, Any]], progress: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what ``results.json`` holds: the sum of a run's records."""
    tasks = [each for each in records if each["kind"] == "task"]
    rounds = [each for each in records if each["kind"] == "round"]
    models = [each for each in records if each["kind"] == "model"]
    twin = setup.config.twin
    return {
        "method": method_name(setup.config.method),
        "experiment": setup.config.name,
        "seed": setup.config.seed,
        "evaluation_split": setup.config.evaluation.split,
        "average_accuracy": metrics.average_accuracy([each["accuracy"] for each in tasks]),
        "last_accuracy": tasks[-1]["accuracy"],
        "macro_f1": tasks[-1]["macro_f1"],
        "average_macro_f1": metrics.average_accuracy([each["macro_f1"] for each in tasks]),
        "forgetting": tasks[-1]["forgetting"],
        "accuracy_by_task": [each["accuracy"] for each in tasks],
        "accuracy_matrix": [each["accuracy_row"] for each in tasks],
        "second_answer": _second_answer(setup, tasks),
        "detection": {"rule": twin.detection.rule, **metrics.count_detections(rounds).as_plain()},
        "watched": [
            {
                "rule": rule.rule,
                "jump_fraction": rule.jump_fraction,
                "reference_classes": rule.reference_classes,
                **metrics.count_detections(rounds, partial(_would_fire, index)).as_plain(),
            }
            for index, rule in enumerate(twin.watched)
        ],
        "champion": {
            name: models[-1][name] for name in ("task", "round", "score", "digest", "test_accuracy")
        }
        if models
        else None,
        "seconds": progress["seconds"],
        "images_trained": progress["images_trained"],
        "megabytes_up": fsum(each["megabytes_up"] for each in rounds),
        "megabytes_down": fsum(each["megabytes_down"] for each in rounds),
        "rejected_updates": sum(len(each["rejected"]) for each in rounds),
        "dataset": setup.config.scenario.dataset,
        "dataset_digest": setup.dataset.digest,
        "config_digest": setup.config.digest(),
        "code_version": code_version(),
        "made_by": list(progress["made_by"]),
    }


def _second_answer(
    setup: ExperimentSetup, tasks: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Sum up a method's other way to classify; none where it was not measured after every task."""
    answers = [each["second_answer"] for each in tasks if each.get("second_answer")]
    if len(answers) < len(tasks):
        return None
    return {
        "name": answers[-1]["name"],
        "average_accuracy": metrics.average_accuracy([each["accuracy"] for each in answers]),
        "last_accuracy": answers[-1]["accuracy"],
        "accuracy_by_task": [each["accuracy"] for each in answers],
        "macro_f1_by_task": [each["macro_f1"] for each in answers],
        "forgetting": metrics.forgetting(
            [each["accuracy_row"] for each in answers], setup.evaluator.num_images()
        ),
    }


def _would_fire(rule: int, seen: Mapping[str, Any]) -> bool:
    return bool(seen["watched"][rule])
