"""An experiment: rounds after rounds, measured, recorded and saved. The one place that logs. The learning is in ``federation.round``.

The simulation's truth (which task it is, which classes are unknown) is known here, for measuring; nothing of it reaches the federation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from federation import metrics
from federation.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from federation.config import ExperimentConfig, method_name
from federation.engines import TwinEngine, Ward, make_engine
from federation.evaluation import Evaluation, Evaluator
from federation.round import RoundRecord, consider, run_round
from federation.run_folder import RunFolder, code_version, environment
from federation.server import ServerState, new_server
from incremental.model_file import save_model
from incremental.proxy import ProxyServer, StoredModel
from physical.datasets import ImageDataset, load_dataset
from physical.scenario import Scenario, plan_scenario


class ExperimentError(ValueError):
    """A run that cannot be started or resumed: what, got, what to do."""


@dataclass(frozen=True)
class Watcher:
    """Who is told what while an experiment runs; all optional.

    Args:
        begin: The plan, before the first round.
        twin_done: Stage and twin, when a twin has observed or trained.
        record: Each record as it is written.
    """

    begin: Callable[[ExperimentConfig, Scenario, int], None] = lambda config, scenario, round_number: None
    twin_done: Callable[[str, str], None] = lambda stage, twin_id: None
    record: Callable[[Mapping[str, Any]], None] = lambda record: None


@dataclass(frozen=True)
class Study:
    """What stays the same through a run.

    Args:
        config: The experiment.
        dataset: Its images.
        scenario: Who sees what when.
        evaluator: Its test images.
        folder: Where it leaves its traces.
        watcher: Who is told.
    """

    config: ExperimentConfig
    dataset: ImageDataset
    scenario: Scenario
    evaluator: Evaluator
    folder: RunFolder
    watcher: Watcher


def run_experiment(
    config: ExperimentConfig,
    out: Path,
    *,
    resume: bool = False,
    data_dir: Path | None = None,
    watcher: Watcher | None = None,
) -> dict[str, Any]:
    """Run an experiment from its beginning or from its last checkpoint to its end.

    Args:
        config: The experiment; its seed names every draw.
        out: Run folder; must be new, unless resumed.
        resume: Go on after the last finished round of ``out``.
        data_dir: Where the user keeps data files.
        watcher: Who is told.

    Returns:
        What was written to ``results.json``.

    Raises:
        ExperimentError: If ``out`` holds another run, or nothing to resume.
    """
    folder = RunFolder(out)
    _check_folder(folder, config, resume)
    study = _prepare(config, folder, data_dir, watcher or Watcher())
    server, proxy = new_server(config.network, config.seed), ProxyServer(config.proxy)
    engine = make_engine(config.engine, ward_of(config, study.dataset, study.scenario), study.watcher.twin_done)
    progress: dict[str, Any] = {"seconds": 0.0, "images_trained": 0, "records": 0, "closed": False}
    try:
        if resume:
            saved = load_checkpoint(folder.checkpoints)
            saved.restore(proxy)
            server, progress = saved.server, dict(saved.progress)
            engine.states = dict(saved.twins)
            folder.keep_records(progress["records"])
        else:
            folder.write_json("config.json", config.as_plain())
            folder.write_json("manifest.json", study.scenario.manifest(config.scenario))
            folder.write_json("environment.json", environment(config.engine.threads))
            folder.keep_records(0)
        study.watcher.begin(config, study.scenario, server.round)
        server = _rounds(study, server, engine, proxy, progress)
        return _finish(study, server, engine, proxy, progress)
    finally:
        engine.close()


def _rounds(study: Study, server: ServerState, engine: TwinEngine, proxy: ProxyServer, progress: dict[str, Any]) -> ServerState:
    while server.round < study.scenario.num_rounds:
        started = perf_counter()
        known = server.class_names
        server, record = run_round(server, engine, study.config.method, proxy, study.config.federation)
        task = study.scenario.task_at(record.round)
        if record.closed is not None:
            _keep_model(study, record.closed, _owner(study, record.closed), progress)
        last_of_task = (record.round + 1) % study.scenario.rounds_per_task == 0
        evaluation = None
        if last_of_task or study.config.evaluation.every_round:
            evaluation = study.evaluator.evaluate(server.weights, server.class_names, task)
        progress["images_trained"] += sum(each.num_images for each in record.accepted) * study.config.training.epochs
        seconds = perf_counter() - started
        progress["seconds"] += seconds
        _tell(study, _round_record(study, record, known, evaluation, seconds), progress)
        if last_of_task and evaluation is not None:
            _tell(study, _task_record(study, task, record.round, evaluation), progress)
        save_checkpoint(study.folder.checkpoints, _checkpoint(server, proxy, engine, progress))
    return server


def _finish(study: Study, server: ServerState, engine: TwinEngine, proxy: ProxyServer, progress: dict[str, Any]) -> dict[str, Any]:
    """Judge the last round's model as every other was judged (at the start of the next round), and sum up."""
    if not progress["closed"]:
        consider(server, engine.observe(server.model), study.config.method, proxy)
        if proxy.best is not None:
            _keep_model(study, proxy.best, _owner(study, proxy.best), progress)
            _keep_examples(study, proxy)
        progress["closed"] = True
        save_checkpoint(study.folder.checkpoints, _checkpoint(server, proxy, engine, progress))
    results = _results(study, progress)
    study.folder.write_json("results.json", results)
    return results


def _keep_examples(study: Study, proxy: ProxyServer) -> None:
    """Save where teacher and student look in a few public test images; nothing without a teacher."""
    if proxy.old_model is not None and proxy.best is not None:
        teacher, student = proxy.old_model, proxy.best
        examples = study.evaluator.attention_examples(teacher.weights, student.weights, teacher.class_names, student.class_names)
        study.folder.write_arrays("examples/attention.npz", examples)


def _prepare(config: ExperimentConfig, folder: RunFolder, data_dir: Path | None, watcher: Watcher) -> Study:
    dataset = load_dataset(config.scenario.dataset, data_dir, holdout_validation=config.evaluation.split == "validation")
    scenario = plan_scenario(dataset.train.labels, dataset.sheet.class_names, config.scenario, config.hospitals, config.seed)
    measured = dataset.test if config.evaluation.split == "test" else dataset.validation
    if not len(measured):
        raise ExperimentError(f"{config.scenario.dataset} has no {config.evaluation.split} images; set evaluation.split to test")
    return Study(config, dataset, scenario, Evaluator(measured, scenario.tasks, config.network), folder, watcher)


def ward_of(config: ExperimentConfig, dataset: ImageDataset, scenario: Scenario) -> Ward:
    """Return the hospitals of a scenario."""
    plans = scenario.hospitals
    return Ward(
        dataset.train,
        {hospital_id: plan.arrivals for hospital_id, plan in plans.items()},
        {hospital_id: plan.joins_at_task * scenario.rounds_per_task for hospital_id, plan in plans.items()},
        config.setting(),
    )


def _check_folder(folder: RunFolder, config: ExperimentConfig, resume: bool) -> None:
    exists = folder.config.exists()
    if resume and not exists:
        raise ExperimentError(f"{folder.path} holds no run to resume; start it without --resume")
    if exists and not resume:
        raise ExperimentError(f"{folder.path} already holds a run; choose another --out, or go on with --resume")
    if resume:
        before = folder.read_json("config.json")
        if (before["config_digest"], before["seed"]) != (config.digest(), config.seed):
            raise ExperimentError(
                f"{folder.path} was begun with seed {before['seed']} and configuration {before['config_digest'][:19]}; this is seed "
                f"{config.seed} and {config.digest()[:19]}; resume with the same ones, or choose another --out"
            )


def _checkpoint(server: ServerState, proxy: ProxyServer, engine: TwinEngine, progress: Mapping[str, Any]) -> Checkpoint:
    return Checkpoint(server, proxy.best, proxy.old_model, proxy.last_closed_round, engine.states, progress)


def _owner(study: Study, model: StoredModel) -> int:
    """Return the task whose rounds made a model."""
    return study.scenario.task_at(max(model.round - 1, 0))


def _keep_model(study: Study, model: StoredModel, task: int, progress: dict[str, Any]) -> None:
    """Save a task's best model, with what it scores on the test images of the classes seen by then."""
    evaluation = study.evaluator.evaluate(model.weights, model.class_names, task)
    facts = {
        "round": model.round,
        "score": None if model.score is None else model.score.value,
        "score_test": None if model.score is None else model.score.test,
        "dataset": study.config.scenario.dataset,
        "dataset_digest": study.dataset.digest,
        "evaluation_split": study.config.evaluation.split,
        "test_accuracy": evaluation.accuracy,
        "config_digest": study.config.digest(),
        "code_version": code_version(),
        "task": task,
    }
    place = study.folder.model(task)
    digest = save_model(place, model.weights, study.config.network, model.class_names, facts)
    record = {"kind": "model", "task": task, "folder": str(place.relative_to(study.folder.path)), "digest": digest, **facts}
    _tell(study, record, progress)


def _tell(study: Study, record: Mapping[str, Any], progress: dict[str, Any]) -> None:
    study.folder.append(record)
    progress["records"] += 1
    study.watcher.record(record)


def _round_record(
    study: Study, record: RoundRecord, known: tuple[str, ...], evaluation: Evaluation | None, seconds: float
) -> dict[str, Any]:
    names = sorted({name for each in record.accepted for name in each.metrics})
    losses = {name: float(np.mean([each.metrics.get(name, 0.0) for each in record.accepted])) for name in names}
    best = record.best
    return {
        "kind": "round",
        "round": record.round,
        "task": study.scenario.task_at(record.round),
        "seconds": seconds,
        "chosen": list(record.chosen),
        "accepted": [each.twin_id for each in record.accepted],
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
                "is_boundary": _unknown_arrived(study, each.twin_id, record.round, known),
                "knows_nothing": not known,
            }
            for each in record.observations
        ],
        "proxy_score": best.score.value if best and best.score else None,
        "best_round": best.round if best else None,
        "accuracy": evaluation.accuracy if evaluation else None,
        "macro_f1": evaluation.macro_f1 if evaluation else None,
        "images_trained": sum(each.num_images for each in record.accepted) * study.config.training.epochs,
        "megabytes_up": record.bytes_up / 1e6,
        "megabytes_down": record.bytes_down / 1e6,
    }


def _unknown_arrived(study: Study, twin_id: str, round_number: int, known: tuple[str, ...]) -> bool:
    """Return the simulation's truth: images of a class that the federation does not know have reached the twin."""
    labels = study.dataset.train.labels
    vocabulary = study.dataset.train.vocabulary
    return any(
        vocabulary[label] not in known
        for arrival in study.scenario.hospitals[twin_id].arrivals
        if arrival.round <= round_number
        for label in np.unique(labels[arrival.positions])
    )


def _task_record(study: Study, task: int, round_number: int, evaluation: Evaluation) -> dict[str, Any]:
    seen = [name for names in study.scenario.tasks[: task + 1] for name in names]
    rows = [each["accuracy_row"] for each in study.folder.read_records() if each["kind"] == "task"]
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
        "forgetting": metrics.forgetting(matrix, study.evaluator.num_images()),
    }


def _results(study: Study, progress: Mapping[str, Any]) -> dict[str, Any]:
    records = study.folder.read_records()
    tasks = [each for each in records if each["kind"] == "task"]
    rounds = [each for each in records if each["kind"] == "round"]
    models = [each for each in records if each["kind"] == "model"]
    return {
        "method": method_name(study.config.method),
        "experiment": study.config.name,
        "seed": study.config.seed,
        "evaluation_split": study.config.evaluation.split,
        "average_accuracy": metrics.average_accuracy([each["accuracy"] for each in tasks]),
        "last_accuracy": tasks[-1]["accuracy"],
        "macro_f1": tasks[-1]["macro_f1"],
        "average_macro_f1": metrics.average_accuracy([each["macro_f1"] for each in tasks]),
        "forgetting": tasks[-1]["forgetting"],
        "accuracy_by_task": [each["accuracy"] for each in tasks],
        "accuracy_matrix": [each["accuracy_row"] for each in tasks],
        "detection": {"rule": study.config.twin.detection.rule, **metrics.count_detections(rounds).as_plain()},
        "champion": {name: models[-1][name] for name in ("task", "round", "score", "digest", "test_accuracy")} if models else None,
        "seconds": progress["seconds"],
        "images_trained": progress["images_trained"],
        "megabytes_up": sum(each["megabytes_up"] for each in rounds),
        "megabytes_down": sum(each["megabytes_down"] for each in rounds),
        "rejected_updates": sum(len(each["rejected"]) for each in rounds),
        "dataset": study.config.scenario.dataset,
        "dataset_digest": study.dataset.digest,
        "config_digest": study.config.digest(),
        "code_version": code_version(),
    }


def with_seed(config: ExperimentConfig, seed: int | None) -> ExperimentConfig:
    """Return the experiment with another seed."""
    return config if seed is None else replace(config, seed=seed)
