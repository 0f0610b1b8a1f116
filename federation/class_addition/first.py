"""The first champion of a federation: a class addition from nothing, of every named image of the mirrors, and its release.

Both are the jobs that a console runs later, as processes of their own, so that the caller loads neither torch nor MLflow.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from federation.class_addition.images import AdditionError
from federation.jobs.job_folder import JOB_FILE, RESULT_FILE, write_whole


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
    """Train a first model and release it; asked again after a crash it goes on, and after its end it changes nothing.

    Args:
        mirrors: Hospital -> folder of its mirror.
        jobs: Folder in which the two jobs get folders, ``first-training`` and ``first-release``.
        tracking_uri: Address of the MLflow store.
        model_name: Of the registered model.
        models: Folder of the models that this machine serves.
        class_names: Classes to begin with; none: every name that a mirror has.
        config: Settings of ``AdditionConfig`` that differ from its defaults.
        rules: Settings of ``ReleaseRules`` that differ from theirs.
        seed: Of everything random.
        actor: Who is named as having decided.

    Returns:
        The result of the release: version, champion, versions and ``current``.

    Raises:
        AdditionError: With what went wrong; a model that the rules find red is not released.
    """
    training, release = jobs.absolute() / "first-training", jobs.absolute() / "first-release"
    hospitals = [
        {"hospital_id": name, "mirror": str(folder.absolute()), "new_images": None}
        for name, folder in mirrors.items()
    ]
    asked = {
        "champion": None,
        "hospitals": hospitals,
        "class_names": None if class_names is None else list(class_names),
        "seed": seed,
    }
    trained = _run(
        "federation.class_addition",
        training,
        {**asked, "config": dict(config or {}), "rules": dict(rules or {})},
    )
    where = {
        "tracking_uri": tracking_uri,
        "model_name": model_name,
        "models_folder": str(models.absolute()),
        "actor": actor,
    }
    candidate = {"candidate": trained["candidate"], "comparison": trained["comparison"]}
    return _run("federation.release", release, {"verb": "release", **where, **candidate})


def _run(module: str, folder: Path, job: Mapping[str, Any]) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    path = write_whole(
        folder / JOB_FILE, json.dumps({"job_id": folder.name, **job}, indent=1).encode()
    )
    done = subprocess.run(
        [sys.executable, "-m", module, str(path)], capture_output=True, text=True, check=False
    )
    try:
        result: dict[str, Any] = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        result = {
            "ok": False,
            "error": f"{module} ended with exit code {done.returncode}: {done.stderr[-500:].strip()}",
        }
    if not result["ok"]:
        raise AdditionError(f"no first champion: {result['error']}")
    return result
