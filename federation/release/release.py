"""Registers a candidate, makes it champion, and takes that back. Knows the registry of models; compares and judges nothing.

Each step may be repeated, after a crash too: a model is found again by its digest, and a version carries a tag per job that says how far it
came. A service that answers meanwhile sees the one champion or the other: an alias moves in one step, and a version never changes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federation.jobs.job_folder import write_whole
from federation.release.findings import Comparison, ComparisonError, read_comparison
from incremental.model_file import read_manifest
from incremental.model_store import artifact_location, open_store
from incremental.registry import CHAMPION, ModelRegistry, ModelVersion, objection

CURRENT_FILE = "current.json"
_ROLLED_BACK, _RELEASED, _RELEASING = "rolled back", "released", "releasing"
_LONGEST_REASON = 2000  # MLflow bounds the length of a tag


class ReleaseError(ValueError):
    """A release or roll-back that must not be: what, got, allowed, what to do."""


def register(
    registry: ModelRegistry, candidate: Path, experiment: str, comparison: Path | None = None
) -> int:
    """Store a candidate as a version, or find the version that it is.

    Args:
        registry: The store.
        candidate: Model folder.
        experiment: MLflow's, under which candidates are filed.
        comparison: What was found; its numbers are filed too.

    Returns:
        The version's number.
    """
    digest = read_manifest(candidate)["digest"]
    for known in registry.list_versions():
        if known.facts.get("digest") == digest:
            return known.version
    found = None if comparison is None else read_comparison(comparison)
    return registry.register(
        candidate, _run(registry, experiment, digest, found[0] if found else None), _facts(found)
    )


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
        registry: The store.
        candidate: Model folder.
        comparison: With the champion of now; none only where there is no champion yet.
        models: Folder of the models that this machine serves.
        job_id: Of the release: asked again, it neither changes the answer nor undoes what people did since.
        actor: Who decided.
        reason: Why; needed where the comparison is red.
        experiment: MLflow's, under which candidates are filed.

    Raises:
        ReleaseError: If it lacks a class of the champion, is red without a reason, or was compared with another champion.
    """
    digest, done = read_manifest(candidate)["digest"], f"job.{job_id}"
    known = next(
        (each for each in registry.list_versions() if each.facts.get("digest") == digest), None
    )
    if known is not None and (
        known.facts.get(done) == _RELEASED
        or (known.facts.get(done) == _RELEASING and known.facts.get("acceptance") == _ROLLED_BACK)
    ):
        return known
    champion = registry.champion()
    if champion is None or champion.facts.get("digest") != digest:
        _check(candidate, champion, comparison, reason)
    version = register(registry, candidate, experiment, comparison)
    registry.fetch(
        version, version_folder(models, version)
    )  # before it serves: what cannot be fetched must not be champion
    for key, value in {
        "acceptance": _RELEASING,
        done: _RELEASING,
        "released_by": actor,
        "released_because": reason,
    }.items():
        registry.tag(version, key, value[:_LONGEST_REASON])
    registry.promote(version)
    registry.tag(version, "acceptance", "accepted")
    registry.tag(version, done, _RELEASED)
    return registry.find(version)


def roll_back(
    registry: ModelRegistry, version: int, job_id: str, actor: str, reason: str
) -> ModelVersion:
    """Make the champion before a version champion again.

    Args:
        registry: The store.
        version: The champion that is withdrawn.
        job_id: Of the roll-back; asked again, it changes nothing.
        actor: Who decided.
        reason: Why.

    Returns:
        The version that was withdrawn.

    Raises:
        ReleaseError: If another version serves.
        RegistryError: If the version replaced none.
    """
    withdrawn, champion, done = registry.find(version), registry.champion(), f"job.{job_id}"
    if withdrawn.facts.get(done) == _ROLLED_BACK:
        return withdrawn
    serves = champion is not None and champion.version == version
    if not serves and withdrawn.facts.get("acceptance") != _ROLLED_BACK:
        now = "none" if champion is None else f"version {champion.version}"
        raise ReleaseError(
            f"version {version} is not the champion, which is {now}; allowed: rolling back the champion; roll that back first"
        )
    if serves:
        registry.rollback()
    for key, value in {
        "rolled_back_by": actor,
        "rolled_back_because": reason,
        done: _ROLLED_BACK,
    }.items():
        registry.tag(version, key, value[:_LONGEST_REASON])
    return registry.find(version)


def bring_champion(registry: ModelRegistry, models: Path) -> dict[str, Any] | None:
    """Bring the champion to this machine's disk and name it in ``current.json``.

    Args:
        registry: The store.
        models: Folder of the models; a version that is there, unchanged, is not fetched again.

    Returns:
        What ``current.json`` says: version, folder, class names; none, and no such file, where there is no champion.
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
    write_whole(path, (json.dumps(current, indent=1) + "\n").encode())
    return current


def version_folder(models: Path, version: int) -> Path:
    """Return where a version's model stands on this machine; a version never changes, so neither does the folder."""
    return models / f"version-{version}"


def as_plain(version: ModelVersion) -> dict[str, Any]:
    """Return a version as JSON takes it."""
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


def _check(
    candidate: Path, champion: ModelVersion | None, comparison: Path | None, reason: str
) -> None:
    manifest = read_manifest(candidate)
    names = champion.class_names if champion else ()
    if objected := objection(manifest["class_names"], manifest.get("test_accuracy"), names):
        raise ReleaseError(
            f"the candidate {objected}; allowed: one that knows all of the champion and was measured; train again"
        )
    if comparison is None:
        if champion is not None:
            raise ReleaseError(
                f"the candidate was compared with nothing and version {champion.version} serves; compare first"
            )
        return
    found, verdict = read_comparison(comparison)
    if found.candidate.digest != manifest["digest"]:
        raise ComparisonError(
            f"{comparison} is about the model {found.candidate.digest[:19]}, not this candidate; train again"
        )
    compared, serving = (
        found.champion.digest if found.champion else None,
        champion.facts.get("digest") if champion else None,
    )
    if compared != serving:
        raise ReleaseError(
            f"the candidate was compared with {_named(compared)} and {_named(serving)} serves now; allowed: a comparison with what serves; "
            "train again from it"
        )
    if (verdict or {}).get("overall", "red") == "red" and not reason.strip():
        raise ReleaseError(
            "the comparison is red; allowed: green, amber, or red with a reason; say why all the same"
        )


def _named(digest: str | None) -> str:
    return "no model" if digest is None else f"the model {digest[:19]}"


def _facts(found: tuple[Comparison, Mapping[str, Any] | None] | None) -> dict[str, str]:
    """Return what of a comparison stands beside a version."""
    if found is None:
        return {}
    comparison, verdict = found
    facts = {
        "compared_with": comparison.champion.digest if comparison.champion else "none",
        "changed_images": str(comparison.num_changed),
    }
    return facts | ({"light": str(verdict["overall"])} if verdict else {})


def _run(registry: ModelRegistry, experiment: str, digest: str, found: Comparison | None) -> str:
    """Return the MLflow run of a candidate, found again by its digest."""
    client = open_store(registry.tracking_uri)
    known = client.get_experiment_by_name(experiment)
    number = (
        known.experiment_id
        if known
        else client.create_experiment(experiment, artifact_location(registry.tracking_uri))
    )
    runs = client.search_runs([number], f"tags.candidate_digest = '{digest}'")
    if runs:
        return str(runs[0].info.run_id)
    run_id = str(
        client.create_run(
            number, tags={"candidate_digest": digest}, run_name=f"class addition {digest[7:15]}"
        ).info.run_id
    )
    if found is not None:
        own = found.candidate
        numbers = {
            "accuracy": own.accuracy,
            "macro_f1": own.macro_f1,
            "calibration_error": own.calibration_error,
        }
        for name, value in {**numbers, "known_accuracy": found.known_accuracy.candidate}.items():
            if value is not None:
                client.log_metric(run_id, name, value)
    client.set_terminated(run_id)
    return run_id
