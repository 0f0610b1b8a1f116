"""The loop over rounds of an experiment: run, measure, record, save and resume.

The simulation's truth (which task it is, which classes are unknown) is known here, for measuring;
nothing of it reaches the federation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from federation.engines.choice import make_engine
from federation.engines.engine import ClosableEngine, TwinEngine
from federation.engines.secure_sum import secured
from federation.engines.twin_states import StateFolder
from federation.experiment.checkpoint import (
    KEPT,
    Checkpoint,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from federation.experiment.config import ExperimentConfig
from federation.experiment.records import (
    model_facts,
    results_of,
    round_record,
    second_answer_record,
    task_record,
)
from federation.experiment.run_folder import RunFolder, code_version, environment
from federation.experiment.setup import ExperimentSetup, prepare_experiment
from federation.experiment.training_code import training_code_digest
from federation.method import SecondClassifier
from federation.round import consider, observe
from federation.server import new_server
from federation.topologies.synchronous import Synchronous
from federation.topologies.topology import Topology
from incremental.model_file import save_model
from incremental.proxy import ProxyServer, StoredModel
from physical.scenario import Scenario


class ExperimentError(ValueError):
    """A run that cannot be started or resumed: what, got, what to do."""


@dataclass(frozen=True)
class RunCallbacks:
    """Who is told what while an experiment runs; all optional.

    Args:
        begin: The plan, before the first round.
        twin_done: Stage and twin, when a twin has observed or trained.
        record: Each record as it is written.
    """

    begin: Callable[[ExperimentConfig, Scenario, int], None] = (
        lambda config, scenario, round_number: None
    )
    twin_done: Callable[[str, str], None] = lambda stage, twin_id: None
    record: Callable[[Mapping[str, Any]], None] = lambda record: None


def run_experiment(
    config: ExperimentConfig,
    out: Path,
    *,
    resume: bool = False,
    data_dir: Path | None = None,
    callbacks: RunCallbacks | None = None,
    engine_for: Callable[[ExperimentSetup], ClosableEngine] | None = None,
) -> dict[str, Any]:
    """Run an experiment from its beginning or from its last checkpoint to its end.

    Args:
        config: The experiment; its seed names every draw.
        out: Run folder; must be new, unless resumed.
        resume: Go on after the last finished round of ``out``.
        data_dir: Where the user keeps data files.
        callbacks: Who is told.
        engine_for: Makes the engine, where twins live somewhere else; none: the configured one of
            this machine.

    Returns:
        What was written to ``results.json``.

    Raises:
        ExperimentError: If ``out`` holds another run, or nothing to resume.
    """
    folder = RunFolder(out)
    _check_folder(folder, config, resume)
    setup = prepare_experiment(config, data_dir)
    with folder.locked():
        run = _Run(setup, folder, callbacks or RunCallbacks(), engine_for)
        try:
            # A run that ended before its first round was saved has nothing to lose: it begins anew.
            if resume and has_checkpoint(folder.checkpoints):
                run.restore()
            else:
                run.begin()
            while run.server.round < setup.scenario.num_rounds:
                run.next_round()
            return run.finish()
        finally:
            run.engine.close()


class _Run:
    """A run under way: the server, the proxy server, the engine, and how much has been written."""

    def __init__(
        self,
        setup: ExperimentSetup,
        folder: RunFolder,
        callbacks: RunCallbacks,
        engine_for: Callable[[ExperimentSetup], ClosableEngine] | None = None,
    ) -> None:
        config = setup.config
        self.setup, self.folder, self.callbacks = setup, folder, callbacks
        self.server = new_server(config.network, config.seed, config.federation.settle_rounds)
        self.proxy = ProxyServer(config.proxy)
        self.topology: Topology = Synchronous(config.federation)
        self.states = StateFolder(folder.twins, KEPT)
        self.engine: ClosableEngine = (
            self._engine_here() if engine_for is None else engine_for(setup)
        )
        self._untold: list[Mapping[str, Any]] = []
        self.progress: dict[str, Any] = {
            "seconds": 0.0,
            "images_trained": 0,
            "records": 0,
            "models": 0,
            "closed": False,
            "rows": [],
            "made_by": [],
        }

    def _engine_here(self) -> TwinEngine:
        config = self.setup.config
        engine = make_engine(
            config.engine, self.setup.hospitals(), self.states, self.callbacks.twin_done
        )
        return secured(engine, config.federation, config.method.sums)

    def begin(self) -> None:
        """Write down what will be run."""
        config = self.setup.config
        self.folder.write_json("config.json", config.as_plain())
        self.folder.write_json("manifest.json", self.setup.scenario.manifest(config.scenario))
        self.folder.write_json(
            "environment.json", environment(config.engine.threads, self.setup.accelerator)
        )
        self.folder.keep_records(0)
        self.states.clear()
        self._note_code()
        self.callbacks.begin(config, self.setup.scenario, 0)

    def restore(self) -> None:
        """Go back to the last finished round."""
        saved = load_checkpoint(self.folder.checkpoints, self.folder.num_records())
        saved.restore(self.proxy)
        self.server, self.progress = saved.server, dict(saved.progress)
        self.states.go_back(saved.states_until)
        self.folder.keep_records(self.progress["records"])
        self._note_code()
        self.callbacks.begin(self.setup.config, self.setup.scenario, self.server.round)

    def _note_code(self) -> None:
        """Remember the code that the next rounds are made by; a resumed run may have several."""
        code = {
            "code_version": code_version(),
            "training_code": training_code_digest(self.setup.config.method),
        }
        before = self.progress.get("made_by", [])  # checkpoints of older versions lack it
        if code not in before:
            self.progress["made_by"] = [*before, code]

    def next_round(self) -> None:
        """Run, measure, record and save one round."""
        started = perf_counter()
        setup, known = self.setup, self.server.class_names
        self.server, record = self.topology.advance(
            self.server, self.engine, setup.config.method, self.proxy
        )
        task = setup.scenario.task_at(record.round)
        if record.closed is not None:
            self._keep_model(record.closed)
        ends = (record.round + 1) % setup.scenario.rounds_per_task == 0
        most = setup.config.evaluation.task_images if ends else setup.config.evaluation.round_images
        evaluation = (
            None
            if most == 0
            else setup.evaluator.evaluate(self.server.weights, self.server.class_names, task, most)
        )
        seconds = perf_counter() - started
        plain = round_record(setup, record, known, evaluation, seconds)
        self.progress["seconds"] += seconds
        self.progress["images_trained"] += plain["images_trained"]
        self._write(plain)
        if ends and evaluation is not None:
            plain_task = task_record(setup, task, record.round, evaluation, self.progress["rows"])
            self._write({**plain_task, "second_answer": self._second_answer(task, most)})
            self.progress["rows"] = [*self.progress["rows"], list(evaluation.by_task)]
        self._save(record.round)

    def finish(self) -> dict[str, Any]:
        """Score the last round's model like every other, and write the results."""
        if not self.progress["closed"]:
            config = self.setup.config
            consider(
                self.server,
                observe(self.server, self.engine, config.federation),
                config.method,
                self.proxy,
            )
            if self.proxy.best is not None:
                self._keep_model(self.proxy.best)
                self._keep_examples(self.proxy.best)
            self.progress["closed"] = True
            self._save(self.server.round)
        results = results_of(self.setup, self.folder.read_records(), self.progress)
        self.folder.write_json("results.json", results)
        return results

    def _second_answer(self, task: int, most: int | None) -> dict[str, Any] | None:
        """Measure the method's second classifier; none where it has none, or not yet."""
        method = self.setup.config.method
        classify = method.classify(self.server) if isinstance(method, SecondClassifier) else None
        if classify is None or not isinstance(method, SecondClassifier):
            return None
        evaluation = self.setup.evaluator.evaluate_classifier(
            classify, self.server.class_names, task, most
        )
        return second_answer_record(method.second_classifier, evaluation)

    def _keep_model(self, model: StoredModel) -> None:
        """Save a task's best model with its test accuracy on the classes seen by then."""
        task = self.progress["models"]
        seen = self.setup.scenario.task_at(max(model.round - 1, 0))
        most = self.setup.config.evaluation.task_images
        accuracy = self.setup.evaluator.evaluate(
            model.weights, model.class_names, seen, most
        ).accuracy
        facts = model_facts(self.setup, model, task, accuracy)
        place = self.folder.model(task)
        digest = save_model(
            place, model.weights, self.setup.config.network, model.class_names, facts
        )
        self.progress["models"] += 1
        self._write(
            {
                "kind": "model",
                "folder": str(place.relative_to(self.folder.path)),
                "digest": digest,
                **facts,
            }
        )

    def _keep_examples(self, student: StoredModel) -> None:
        """Save Grad-CAMs of teacher and student for a few test images; nothing without teacher."""
        teacher = self.proxy.old_model
        if teacher is not None:
            examples = self.setup.evaluator.attention_examples(
                teacher.weights, student.weights, teacher.class_names, student.class_names
            )
            self.folder.write_arrays("examples/attention.npz", examples)

    def _write(self, record: Mapping[str, Any]) -> None:
        """Write a record; who watches is told once it is saved."""
        self.folder.append(record)
        self.progress["records"] += 1
        self._untold.append(record)

    def _save(self, states_until: int) -> None:
        """Save all that a resumed run needs, in order: states, records, the checkpoint that counts.

        Callbacks come last: what a person was shown is on the disk.
        """
        self.states.flush()
        self.folder.flush_records()
        proxy = self.proxy
        state = (proxy.best, proxy.old_model, states_until, self.progress)
        save_checkpoint(self.folder.checkpoints, Checkpoint(self.server, *state))
        untold, self._untold = self._untold, []
        for record in untold:
            self.callbacks.record(record)


def _check_folder(folder: RunFolder, config: ExperimentConfig, resume: bool) -> None:
    exists = folder.config.exists()
    if resume and not exists:
        raise ExperimentError(f"{folder.path} holds no run to resume; start it without --resume")
    if exists and not resume and not has_checkpoint(folder.checkpoints):
        return
    if exists and not resume:
        raise ExperimentError(
            f"{folder.path} already holds a run; choose another --out, or go on with --resume"
        )
    if resume:
        before = folder.read_json("config.json")
        seed, digest = before.get("seed"), str(before.get("config_digest"))
        if (digest, seed) != (config.digest(), config.seed):
            raise ExperimentError(
                f"{folder.path} was begun with seed {seed} and configuration {digest[:19]}; this "
                "is "
                f"seed {config.seed} and {config.digest()[:19]}; resume with the same ones, or "
                "choose another --out"
            )


def with_seed(config: ExperimentConfig, seed: int | None) -> ExperimentConfig:
    """Return the experiment with another seed."""
    return config if seed is None else replace(config, seed=seed)
