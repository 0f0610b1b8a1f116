"""Release of a candidate in the registry of models: register it, promote it, roll it back.

Each step may be repeated, also after a crash: a model is found again by its digest, and each
version carries a tag per job that says how far the job came. Readers see the old champion or the
new one, because an alias moves in one step and a version never changes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federation.jobs.runner import write_atomically
from federation.release.findings import Comparison, ComparisonError, read_comparison
from incremental.model_file import read_manifest
from incremental.model_store import artifact_location, open_store
from incremental.registry import CHAMPION, ModelRegistry, ModelVersion, refusal_reason

CURRENT_FILE = "current.json"
_ROLLED_BACK, _RELEASED, _RELEASING = "rolled back", "released", "releasing"
_MAX_TAG_LENGTH = 2000  # MLflow's bound


class ReleaseError(ValueError):
    """A release or roll-back that is not allowed: what, got, allowed, what to do."""


def register(
    registry: ModelRegistry, candidate: Path, experiment: str, comparison: Path | None = None
) -> int:
    """Store a candidate as a version, unless the registry holds it already.

    Args:
        registry: The store of models.
        candidate: Model folder.
        experiment: MLflow's experiment of the candidates.
        comparison: File of the comparison whose numbers are stored as well.

    Returns:
        The number of the version.
    """
    digest = read_manifest(candidate)["digest"]
    if known := _find_by_digest(registry, digest):
        return known.version
    found, verdict = (None, None) if comparison is None else read_comparison(comparison)
    run_id = _candidate_run(registry, experiment, digest, found)
    return registry.register(candidate, run_id, _comparison_tags(found, verdict))


def release(
    registry: ModelRegistry,
    candidate: Path,
    comparison: Path | None,
    models: Path,
    job_id: str,
    actor: str,
    reason: str,
    experiment: str,
) -> ModelVersion:
    """Make a candidate the champion.

    Args:
        registry: The store of models.
        candidate: Model folder.
        comparison: File of the comparison with the present champion; none only without a champion.
        models: Folder of the models that this machine serves.
        job_id: Id of the release. Repeating a job changes nothing, not even after a roll-back.
        actor: Who decided.
        reason: Why; needed where the comparison is red.
        experiment: MLflow's experiment of the candidates.

    Raises:
        ReleaseError: If the candidate lacks a class of the champion, is red without a reason, or
            was compared with another champion.
    """
    digest, job_tag = read_manifest(candidate)["digest"], f"job.{job_id}"
    known = _find_by_digest(registry, digest)
    if known is not None:
        progress = known.facts.get(job_tag)
        was_rolled_back = known.facts.get("acceptance") == _ROLLED_BACK
        if progress == _RELEASED or (progress == _RELEASING and was_rolled_back):
            return known
    champion = registry.champion()
    if champion is None or champion.facts.get("digest") != digest:
        _check_release(candidate, champion, comparison, reason)
    version = register(registry, candidate, experiment, comparison)
    # Fetched before it is promoted: a model that cannot be fetched must not become champion.
    registry.fetch(version, version_folder(models, version))
    tags = {"acceptance": _RELEASING, job_tag: _RELEASING}
    _tag(registry, version, {**tags, "released_by": actor, "released_because": reason})
    registry.promote(version)
    _tag(registry, version, {"acceptance": "accepted", job_tag: _RELEASED})
    return registry.find(version)


def roll_back(
    registry: ModelRegistry, version: int, job_id: str, actor: str, reason: str
) -> ModelVersion:
    """Withdraw the champion and make the one before it champion again.

    Args:
        registry: The store of models.
        version: Number of the champion.
        job_id: Id of the roll-back. Repeating a job changes nothing.
        actor: Who decided.
        reason: Why.

    Returns:
        The version that was withdrawn.

    Raises:
        ReleaseError: If another version is the champion.
        RegistryError: If no version was champion before.
    """
    withdrawn, champion, job_tag = registry.find(version), registry.champion(), f"job.{job_id}"
    if withdrawn.facts.get(job_tag) == _ROLLED_BACK:
        return withdrawn
    is_champion = champion is not None and champion.version == version
    if not is_champion and withdrawn.facts.get("acceptance") != _ROLLED_BACK:
        now = "none" if champion is None else f"version {champion.version}"
        raise ReleaseError(
            f"version {version} is not the champion, which is {now}; "
            "allowed: rolling back the champion; roll that back first"
        )
    if is_champion:
        registry.rollback()
    tags = {"rolled_back_by": actor, "rolled_back_because": reason, job_tag: _ROLLED_BACK}
    _tag(registry, version, tags)
    return registry.find(version)


def fetch_champion(registry: ModelRegistry, models: Path) -> dict[str, Any] | None:
    """Fetch the champion to this machine's disk and write ``current.json``.

    Args:
        registry: The store of models.
        models: Folder of the models; a version that lies there unchanged is not fetched again.

    Returns:
        The content of ``current.json``: version, folder and class names. None without a champion;
        the file is removed then.
    """
    champion = registry.champion()
    path = models / CURRENT_FILE
    if champion is None:
        path.unlink(missing_ok=True)
        return None
    folder = registry.fetch(champion.version, version_folder(models, champion.version))
    current = {
        "version": str(champion.version),
        "folder": str(folder.absolute()),
        "class_names": list(champion.class_names),
    }
    write_atomically(path, (json.dumps(current, indent=1) + "\n").encode())
    return current


def version_folder(models: Path, version: int) -> Path:
    """Return the folder of a version's model on this machine."""
    return models / f"version-{version}"


def version_as_plain(version: ModelVersion) -> dict[str, Any]:
    """Return a version as plain data for JSON."""
    return {
        "version": str(version.version),
        "aliases": list(version.aliases),
        "class_names": list(version.class_names),
        "created": version.created.isoformat(timespec="seconds"),
        "accuracy": version.accuracy,
        "digest": version.facts.get("digest"),
        "acceptance": version.facts.get("acceptance"),
        "serves": CHAMPION in version.aliases,
        "facts": dict(version.facts),
    }


def _find_by_digest(registry: ModelRegistry, digest: str) -> ModelVersion | None:
    versions = registry.list_versions()
    return next((each for each in versions if each.facts.get("digest") == digest), None)


def _tag(registry: ModelRegistry, version: int, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        registry.tag(version, key, value[:_MAX_TAG_LENGTH])


def _check_release(
    candidate: Path, champion: ModelVersion | None, comparison: Path | None, reason: str
) -> None:
    """Raise an error unless a candidate may replace the champion."""
    manifest = read_manifest(candidate)
    names = champion.class_names if champion else ()
    if objected := refusal_reason(manifest["class_names"], manifest.get("test_accuracy"), names):
        raise ReleaseError(
            f"the candidate {objected}; allowed: a candidate with a measured accuracy "
            "that knows all classes of the champion; train again"
        )
    if comparison is None:
        if champion is not None:
            raise ReleaseError(
                "the candidate was compared with nothing "
                f"and version {champion.version} serves; compare first"
            )
        return
    found, verdict = read_comparison(comparison)
    if found.candidate.digest != manifest["digest"]:
        raise ComparisonError(
            f"{comparison} is about the model {found.candidate.digest[:19]}, "
            "not this candidate; train again"
        )
    compared = found.champion.digest if found.champion else None
    serving = champion.facts.get("digest") if champion else None
    if compared != serving:
        raise ReleaseError(
            f"the candidate was compared with {_model_text(compared)} and {_model_text(serving)} "
            "serves now; allowed: a comparison with the model that serves; train again from it"
        )
    if (verdict or {}).get("overall", "red") == "red" and not reason.strip():
        raise ReleaseError(
            "the comparison is red; allowed: green, amber, or red with a reason; give a reason"
        )


def _model_text(digest: str | None) -> str:
    return "no model" if digest is None else f"the model {digest[:19]}"


def _comparison_tags(found: Comparison | None, verdict: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the numbers of a comparison that are stored as tags of the candidate's version."""
    if found is None:
        return {}
    tags = {
        "compared_with": found.champion.digest if found.champion else "none",
        "changed_images": str(found.num_changed),
    }
    return tags | ({"light": str(verdict["overall"])} if verdict else {})


def _candidate_run(
    registry: ModelRegistry, experiment: str, digest: str, found: Comparison | None
) -> str:
    """Return the id of the candidate's MLflow run; create the run unless it exists."""
    client = open_store(registry.tracking_uri)
    known = client.get_experiment_by_name(experiment)
    experiment_id = (
        known.experiment_id
        if known
        else client.create_experiment(experiment, artifact_location(registry.tracking_uri))
    )
    if runs := client.search_runs([experiment_id], f"tags.candidate_digest = '{digest}'"):
        return str(runs[0].info.run_id)
    name = f"class addition {digest[7:15]}"
    run = client.create_run(experiment_id, tags={"candidate_digest": digest}, run_name=name)
    run_id = str(run.info.run_id)
    if found is not None:
        for metric, value in {
            "accuracy": found.candidate.accuracy,
            "macro_f1": found.candidate.macro_f1,
            "calibration_error": found.candidate.calibration_error,
            "known_accuracy": found.known_accuracy.candidate,
        }.items():
            if value is not None:
                client.log_metric(run_id, metric, value)
    client.set_terminated(run_id)
    return run_id
