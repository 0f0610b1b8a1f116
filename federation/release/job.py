"""The release job: the content of its ``job.json``, and what each verb does."""

from pathlib import Path
from typing import Any, Literal

import pydantic.dataclasses
from pydantic import ConfigDict

from federation.jobs.runner import Identifier, JobFolder
from federation.release.release import (
    ReleaseError,
    fetch_champion,
    register,
    release,
    roll_back,
    version_as_plain,
    version_folder,
)
from incremental.registry import ModelRegistry

Verb = Literal["register", "release", "roll_back", "versions", "fetch"]


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ReleaseJob:
    """A change or a listing of the store of models.

    Args:
        job_id: Id of the decision. Repeating a job changes nothing.
        verb: ``register`` a candidate; ``release`` it (and register it before); ``roll_back`` a
            version; list the ``versions``; ``fetch`` the champion or a version to the disk.
        tracking_uri: Address of the MLflow store.
        models_folder: Absolute folder of the models that this machine serves.
        model_name: Name of the registered model.
        actor: Who decided.
        reason: Why.
        candidate: Model folder, for ``register`` and ``release``.
        comparison: File of the comparison with the champion.
        version: The champion that ``roll_back`` withdraws, or the version that ``fetch`` fetches
            (none: the champion).
        experiment: MLflow's experiment of the candidates.
    """

    job_id: Identifier
    verb: Verb
    tracking_uri: str
    models_folder: Path
    model_name: str = "fedka"
    actor: str = ""
    reason: str = ""
    candidate: Path | None = None
    comparison: Path | None = None
    version: int | None = None
    experiment: str = "fedka-console"

    def __post_init__(self) -> None:
        """Check that the values which the verb needs are given."""
        needed = {"register": "candidate", "release": "candidate", "roll_back": "version"}
        name = needed.get(self.verb)
        if name and getattr(self, name) is None:
            raise ValueError(f"verb {self.verb} without {name}; needed: {name}")
        for name in ("models_folder", "candidate", "comparison"):
            value = getattr(self, name)
            if value is not None and not value.is_absolute():
                raise ValueError(f"{name} is {value}; allowed: an absolute path")


def run_release(job: ReleaseJob, folder: JobFolder) -> dict[str, Any]:
    """Do what a release job asks for.

    Args:
        job: The job.
        folder: Its folder, for its progress.

    Returns:
        The result: verb, version, champion, all versions, and the content of ``current.json``.
    """
    job.models_folder.mkdir(parents=True, exist_ok=True)
    with JobFolder(job.models_folder).lock():  # one release at a time
        folder.add_progress(job.verb, 0, 1, "Opening the store of models")
        registry = ModelRegistry(job.tracking_uri, job.model_name)
        version = _carry_out(job, registry)
        current = fetch_champion(registry, job.models_folder)
        versions = [version_as_plain(each) for each in registry.list_versions()]
    text = f"Version {current['version']} serves" if current else "No version serves"
    folder.add_progress(job.verb, 1, 1, text)
    return {
        "verb": job.verb,
        "version": None if version is None else str(version),
        "champion": next((each for each in versions if each["serves"]), None),
        "versions": versions,
        "current": current,
        "folder": None if version is None else str(version_folder(job.models_folder, version)),
    }


def _carry_out(job: ReleaseJob, registry: ModelRegistry) -> int | None:
    """Do what the verb says; return the version that it is about."""
    if job.verb == "register" and job.candidate is not None:
        version = register(registry, job.candidate, job.experiment, job.comparison)
    elif job.verb == "release" and job.candidate is not None:
        decision = (job.models_folder, job.job_id, job.actor, job.reason, job.experiment)
        return release(registry, job.candidate, job.comparison, *decision).version
    elif job.verb == "roll_back" and job.version is not None:
        return roll_back(registry, job.version, job.job_id, job.actor, job.reason).version
    elif job.verb == "fetch":
        champion = registry.champion()
        if champion is None:
            raise ReleaseError(
                f"model {job.model_name!r} has no champion; "
                "needed: a released version; release a candidate first"
            )
        version = champion.version if job.version is None else job.version
    else:
        return None
    registry.fetch(version, version_folder(job.models_folder, version))
    return version
