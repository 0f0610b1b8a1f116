"""The job of a release process: its file, and what is done for each verb. Knows no page and no training."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic.dataclasses
from pydantic import ConfigDict, StringConstraints

from federation.jobs.job_folder import JobFolder
from federation.release.release import (
    ReleaseError,
    as_plain,
    bring_champion,
    register,
    release,
    roll_back,
    version_folder,
)
from incremental.registry import ModelRegistry

JobId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Verb = Literal["register", "release", "roll_back", "versions", "fetch"]


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ReleaseJob:
    """What shall be done with the store of models.

    Args:
        job_id: Of the decision; asked again, it changes nothing.
        verb: ``register`` a candidate; ``release`` it (and register it before); ``roll_back`` a version; list ``versions``; ``fetch`` the
            champion, or a version, to this machine's disk.
        tracking_uri: Address of the MLflow store.
        models_folder: Of the models that this machine serves; absolute.
        model_name: Of the registered model.
        actor: Who decided.
        reason: Why.
        candidate: Model folder, for ``register`` and ``release``.
        comparison: File of the comparison with the champion.
        version: For ``roll_back`` (the champion that is withdrawn) and ``fetch`` (none: the champion).
        experiment: MLflow's, under which candidates are filed.
    """

    job_id: JobId
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
        """Check what the verb needs."""
        needed = {"register": "candidate", "release": "candidate", "roll_back": "version"}.get(
            self.verb
        )
        if needed and getattr(self, needed) is None:
            raise ValueError(f"verb {self.verb} without {needed}; needed: {needed}")
        for name in ("models_folder", "candidate", "comparison"):
            value = getattr(self, name)
            if value is not None and not value.is_absolute():
                raise ValueError(f"{name} is {value}; allowed: an absolute path")


def do(job: ReleaseJob, folder: JobFolder) -> dict[str, Any]:
    """Do what a job asks for.

    Args:
        job: What.
        folder: Where its progress is told.

    Returns:
        The result: verb, version, champion, all versions, and what ``current.json`` says.
    """
    job.models_folder.mkdir(parents=True, exist_ok=True)
    with JobFolder(job.models_folder).alone():  # two releases must not overtake each other
        folder.tell({"step": job.verb, "done": 0, "of": 1, "text": "Opening the store of models"})
        registry = ModelRegistry(job.tracking_uri, job.model_name)
        version = _change(job, registry)
        current = bring_champion(registry, job.models_folder)
        versions = [as_plain(each) for each in registry.list_versions()]
    folder.tell(
        {
            "step": job.verb,
            "done": 1,
            "of": 1,
            "text": f"Version {current['version']} serves" if current else "No version serves",
        }
    )
    return {
        "verb": job.verb,
        "version": None if version is None else str(version),
        "champion": next((each for each in versions if each["serves"]), None),
        "versions": versions,
        "current": current,
        "folder": None if version is None else str(version_folder(job.models_folder, version)),
    }


def _change(job: ReleaseJob, registry: ModelRegistry) -> int | None:
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
                f"model {job.model_name!r} has no champion; needed: one that was released; release a candidate first"
            )
        version = champion.version if job.version is None else job.version
    else:
        return None
    registry.fetch(version, version_folder(job.models_folder, version))
    return version
