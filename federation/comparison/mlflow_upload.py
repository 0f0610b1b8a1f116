"""Upload of a comparison to MLflow: a parent run with tables, a child for each run.

Children are numbers and files alone: a method that is only compared never becomes a registered
model.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from federation.comparison.outcomes import Block
from federation.comparison.suite import Suite
from federation.tracking import TrackingConfig
from federation.tracking.upload import Upload
from incremental.model_store import artifact_location, open_store

PARENT_TAG = "mlflow.parentRunId"
# One for all suites: a run that two of them share is a child of the one that was written last.
_EXPERIMENT = "compare"


def mirror_comparison(suite: Suite, blocks: Sequence[Block], out: Path) -> str:
    """Copy a comparison to ``out/mlflow.db``.

    May be repeated: runs that are there are brought up to date.

    Returns:
        MLflow's identifier of the parent run.
    """
    uri = f"sqlite:///{out.absolute() / 'mlflow.db'}"
    client = open_store(uri)
    folder = out / suite.name
    parent = _parent(client, uri, suite, folder)
    for block in blocks:
        for row in block.rows:
            if row.average is not None:
                client.log_metric(
                    parent,
                    _metric_name(f"average/{block.experiment.title}/{row.label}"),
                    row.average.mean,
                )
            for outcome in (
                () if row.answer else row.outcomes
            ):  # a second answer is a reading of a run that is there
                child = Upload(
                    outcome.path, TrackingConfig(uri=uri, experiment=_EXPERIMENT), live=False
                )
                child.upload_records()
                child.upload_artifacts()
                child.end("FINISHED")
                name = f"{row.label}, {block.experiment.title}, seed {outcome.seed}"
                for tag, value in (
                    (PARENT_TAG, parent),
                    ("mlflow.runName", name),
                    ("method_label", row.label),
                ):
                    client.set_tag(child.state.run_id, tag, value)
    for path in sorted(folder.iterdir()):
        if (
            path.suffix in (".md", ".csv", ".tex", ".json", ".svg", ".png")
            and path.name != "mlflow.json"
        ):
            client.log_artifact(parent, str(path))
    client.set_terminated(parent, "FINISHED")
    return parent


def _parent(client: Any, uri: str, suite: Suite, folder: Path) -> str:
    receipt = folder / "mlflow.json"
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    experiment_id = (
        experiment.experiment_id
        if experiment
        else client.create_experiment(_EXPERIMENT, artifact_location(uri))
    )
    if receipt.is_file():
        before: Mapping[str, str] = json.loads(receipt.read_text(encoding="utf-8"))
        found = client.search_runs([experiment_id], f"attributes.run_id = '{before['run_id']}'")
        if found:  # else the store was emptied: begin again
            return before["run_id"]
    run = client.create_run(
        experiment_id,
        run_name=suite.name,
        tags={"comparison": suite.name, "reference": suite.config.reference},
    )
    client.log_param(run.info.run_id, "title", suite.config.title)
    receipt.write_text(json.dumps({"run_id": run.info.run_id}), encoding="utf-8")
    return str(run.info.run_id)


def _metric_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)
