"""The first champion of a federation: trained from nothing on all named images, then released.

Training and release are the same jobs that the console runs later. They run as processes of their
own, so that the caller loads neither torch nor MLflow.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from federation.class_addition.image_plan import AdditionError
from federation.jobs.runner import JOB_FILE, RESULT_FILE, JobFolder


def make_first_champion(
    mirrors: Mapping[str, Path],
    jobs: Path,
    tracking_uri: str,
    model_name: str,
    models: Path,
    *,
    class_names: Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
    rules: Mapping[str, Any] | None = None,
    seed: int = 1,
    actor: str = "system",
) -> dict[str, Any]:
    """Train a first model and release it. A repeated call continues after a crash.

    Args:
        mirrors: Hospital -> folder of its mirror.
        jobs: Folder in which the jobs get the folders ``first-training`` and ``first-release``.
        tracking_uri: Address of the MLflow store.
        model_name: Name of the registered model.
        models: Folder of the models that this machine serves.
        class_names: Classes to begin with; none: all names in the mirrors.
        config: Settings of ``AdditionConfig`` that differ from its defaults.
        rules: Settings of ``ReleaseRules`` that differ from its defaults.
        seed: Seed of everything random.
        actor: Who is recorded as having decided.

    Returns:
        The result of the release: version, champion, versions and ``current``.

    Raises:
        AdditionError: If a job failed; a model that the rules find red is not released.
    """
    training = {
        "champion": None,
        "hospitals": [
            {"hospital_id": name, "mirror": str(folder.absolute()), "new_images": None}
            for name, folder in mirrors.items()
        ],
        "class_names": None if class_names is None else list(class_names),
        "seed": seed,
        "config": dict(config or {}),
        "rules": dict(rules or {}),
    }
    jobs = jobs.absolute()
    trained = _run("federation.class_addition", jobs / "first-training", training)
    release = {
        "verb": "release",
        "tracking_uri": tracking_uri,
        "model_name": model_name,
        "models_folder": str(models.absolute()),
        "actor": actor,
        "candidate": trained["candidate"],
        "comparison": trained["comparison"],
    }
    return _run("federation.release", jobs / "first-release", release)


def _run(module: str, path: Path, job: Mapping[str, Any]) -> dict[str, Any]:
    path.mkdir(parents=True, exist_ok=True)
    folder = JobFolder(path)
    content = json.dumps({"job_id": path.name, **job}, indent=1)
    job_file = folder.write(JOB_FILE, content.encode())
    command = [sys.executable, "-m", module, str(job_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    result: dict[str, Any] | None = folder.read_json(RESULT_FILE)
    if result is None:
        text = f"{module} ended with exit code {done.returncode}: {done.stderr[-500:].strip()}"
        result = {"ok": False, "error": text}
    if not result["ok"]:
        raise AdditionError(f"no first champion: {result['error']}")
    return result
