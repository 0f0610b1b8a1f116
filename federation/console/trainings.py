"""From approved cases to a training, and from what processes leave to where cases stand. Torch-free: composes files and reads files.

A case belongs to a training from the moment it is queued; what the training is made of is read when its process starts, so that a waiting
training takes in what is approved meanwhile. Whatever follows from an end may happen twice: each step looks first whether it was done.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.catalogue.class_catalogue import ClassCatalogue
from federation.console.job_queue import Job, JobError, Jobs
from federation.console.registry_view import RegistryView
from federation.console.settings import ConsoleSettings, write_private
from physical.mirror import Mirror
from twin.review.cases import Case
from twin.review.store import CaseNotFound, ReviewStore
from twin.review.workflow import SYSTEM, Actor, CaseState, Role, WorkflowError

_PLAN = "cases.json"
_log = logging.getLogger("fedka.console.trainings")


@dataclass(frozen=True)
class Trainings:
    """What jobs are made of and what follows from them.

    Args:
        settings: Of the console.
        store: Cases.
        catalogue: Class names.
        mirrors: One per hospital.
        registry: What serves now.
    """

    settings: ConsoleSettings
    store: ReviewStore
    catalogue: ClassCatalogue
    mirrors: Mapping[str, Mirror]
    registry: RegistryView

    def prepare(self, job: Job) -> Mapping[str, Any]:
        """Return the content of a job's ``job.json``.

        Raises:
            ValueError: If it cannot be done any more.
        """
        return self._training(job) if job.kind == "training" else self._registry_work(job)

    def settle(self, job: Job, result: Mapping[str, Any], jobs: Jobs) -> None:
        """Draw the consequences of a job's end; may be called again."""
        if result.get("versions") is not None:
            self.registry.keep(result["versions"])
        if job.kind == "training":
            self._settle_training(job, jobs)
        elif job.kind == "register":
            self._finish(job.subject, str(result["version"]) if job.state == "done" else None)
        elif job.kind == "release" and job.state == "done":
            self._settle_release(job)
        elif job.kind == "roll_back" and job.state == "done":
            self._move(job, CaseState.RELEASED, "roll_back")
        elif job.kind == "versions" and job.state == "done":
            self.catalogue.add_model_classes(self.registry.champion_classes(), SYSTEM.user)

    def _training(self, job: Job) -> Mapping[str, Any]:
        current = self.registry.current()
        if current is None:
            raise JobError(
                "no model serves yet, so there is none to which a class could be added; make and release a first model"
            )
        cases = [
            case for case in self.store.of_training(job.job_id) if case.state is CaseState.TRAINING
        ]
        if not cases:
            raise JobError("none of its cases waits for a training any more")
        folder = self.settings.jobs_folder / job.job_id
        write_private(
            folder / _PLAN, json.dumps([[case.hospital, case.case_id] for case in cases]).encode()
        )
        new_images: dict[str, dict[str, list[str]]] = {
            hospital: {} for hospital in self.settings.hospitals
        }
        for case in cases:
            name = self.catalogue.resolve(case.class_name or "")
            new_images[case.hospital].setdefault(name, []).extend(
                self.store.selected_ids(case.case_id)
            )
        return {
            "job_id": job.job_id,
            "champion": str(current.folder),
            "hospitals": [
                {
                    "hospital_id": hospital,
                    "mirror": str(self.settings.hospital(hospital).mirror),
                    "new_images": images,
                }
                for hospital, images in new_images.items()
            ],
            "synonyms": self._synonyms(),
            "seed": 1,
            "config": dict(self.settings.addition),
            "rules": dict(self.settings.release_rules),
        }

    def _synonyms(self) -> dict[str, str]:
        """Names that mirrors use and the catalogue knows as another class's."""
        used = {name for mirror in self.mirrors.values() for name in mirror.class_counts()}
        known = {
            name: entry.name for name in used if (entry := self.catalogue.find(name)) is not None
        }
        return {name: stays for name, stays in known.items() if name != stays}

    def _registry_work(self, job: Job) -> Mapping[str, Any]:
        common = {
            "job_id": job.job_id,
            "verb": job.kind,
            "tracking_uri": self.settings.models_url,
            "model_name": self.settings.model_name,
            "models_folder": str(self.settings.models_folder),
            "actor": job.user,
            "reason": job.reason,
        }
        if job.kind == "versions":
            return common
        folder = self.settings.jobs_folder / job.subject
        common |= {
            "candidate": str(folder / "candidate"),
            "comparison": str(folder / "comparison.json"),
        }
        return common | ({"version": int(job.version)} if job.version else {})

    def _settle_training(self, job: Job, jobs: Jobs) -> None:
        if job.state == "failed":
            for case in self._at(job.job_id, CaseState.TRAINING):
                self._act(case, "fail_training", SYSTEM, job.error)
        elif not jobs.jobs("register", subject=job.job_id):
            jobs.add("register", job.user, job.role, subject=job.job_id)

    def _finish(self, training_id: str, version: str | None) -> None:
        """A candidate that could not be registered is evaluated all the same: its release registers it."""
        for case in self._at(training_id, CaseState.TRAINING):
            self._act(case, "finish_training", SYSTEM, "", version)

    def _settle_release(self, job: Job) -> None:
        cases = self.store.of_training(job.subject)
        self._move(job, CaseState.EVALUATED, "release")
        names = {
            case.case_id: self._final_name(case.class_name) for case in cases if case.class_name
        }
        self.catalogue.mark_learned(sorted(set(names.values())))
        for case in cases:
            if case.case_id in names:
                self.mirrors[case.hospital].set_class_name(
                    self.store.selected_ids(case.case_id), names[case.case_id]
                )

    def _final_name(self, name: str) -> str:
        entry = self.catalogue.find(name)
        return name if entry is None else entry.name

    def _move(self, job: Job, where: CaseState, action: str) -> None:
        for case in self._at(job.subject, where):
            self._act(case, action, Actor(job.user, Role(job.role)), job.reason)

    def _at(self, training_id: str, state: CaseState) -> list[Case]:
        return [case for case in self.store.of_training(training_id) if case.state is state]

    def _act(
        self, case: Case, action: str, actor: Actor, reason: str, version: str | None = None
    ) -> None:
        """Take a step that has happened to the model already: what speaks against it is written down, and stops nothing."""
        try:
            self.store.act(
                case.case_id,
                action,
                actor,
                hospital=None,
                reason=reason[:500],
                candidate_version=version,
            )
        except (WorkflowError, CaseNotFound) as error:
            _log.error("case %d could not follow its training: %s", case.case_id, error)
            self.store.audit.record(
                actor.user,
                actor.role,
                case.hospital,
                f"case.{action}_impossible",
                f"case {case.case_id}",
                {"why": str(error)},
            )


def start_training(store: ReviewStore, jobs: Jobs, cases: Sequence[Case], actor: Actor) -> Job:
    """Put approved cases into the training that waits, or into a new one.

    Raises:
        WorkflowError: If a case may not be trained now.
    """
    with jobs.held():
        job = next(
            (job for job in jobs.jobs("training") if job.state == "waiting" and job.attempts == 0),
            None,
        )
        job = job or jobs.add("training", actor.user, actor.role)
        for case in cases:
            store.act(case.case_id, "start_training", actor, hospital=None, training_id=job.job_id)
    return job


def cases_of_plan(store: ReviewStore, jobs: Jobs, training_id: str) -> list[Case]:
    """Return the cases with which a training began, wherever they stand or belong by now."""
    path = Path(jobs.folder) / jobs.job(training_id).job_id / _PLAN
    try:
        return [
            store.case(hospital, case_id) for hospital, case_id in json.loads(path.read_bytes())
        ]
    except (FileNotFoundError, CaseNotFound):
        return []
