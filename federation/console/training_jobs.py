"""Job files of trainings and releases, and what the end of a job changes in cases and catalogue.

A case belongs to a training from the moment it is queued. The job file is written when the process
starts, so that a waiting training also gets the cases that are approved in the meantime.
Settling a job may be repeated: each step first checks whether it was already done.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from federation.catalogue.class_catalogue import ClassCatalogue
from federation.console.files import write_private
from federation.console.job_queue import Job, JobError, JobQueue
from federation.console.registry_view import RegistryView
from federation.console.settings import ConsoleSettings
from physical.mirror import Mirror
from twin.review.cases import Case
from twin.review.store import CaseNotFound, ReviewStore
from twin.review.workflow import SYSTEM, Actor, CaseState, Role, WorkflowError

_PLAN = "cases.json"
_log = logging.getLogger("fedka.console.trainings")


@dataclass(frozen=True)
class TrainingJobs:
    """Prepares jobs and carries out the consequences of their end.

    Args:
        settings: Settings of the console.
        store: Cases and decisions.
        catalogue: Class names of the federation.
        mirrors: Hospital -> its mirrored images.
        registry: Versions of the model.
    """

    settings: ConsoleSettings
    store: ReviewStore
    catalogue: ClassCatalogue
    mirrors: Mapping[str, Mirror]
    registry: RegistryView

    def prepare(self, job: Job) -> Mapping[str, Any]:
        """Return the content of a job's ``job.json``.

        Raises:
            JobError: If the job cannot be done any more.
        """
        return self._training_file(job) if job.kind == "training" else self._release_file(job)

    def settle(self, job: Job, result: Mapping[str, Any], jobs: JobQueue) -> None:
        """Update cases, catalogue and mirrors after a job's end; may be called again."""
        if result.get("versions") is not None:
            self.registry.save_versions(result["versions"])
        if job.kind == "training":
            self._settle_training(job, jobs)
        elif job.kind == "register":
            self._finish_training(
                job.subject, str(result["version"]) if job.state == "done" else None
            )
        elif job.kind == "release" and job.state == "done":
            self._settle_release(job)
        elif job.kind == "roll_back" and job.state == "done":
            self._act_on_cases(job, CaseState.RELEASED, "roll_back")
        elif job.kind == "versions" and job.state == "done":
            self.catalogue.add_model_classes(self.registry.champion_classes(), SYSTEM.user)

    def _training_file(self, job: Job) -> Mapping[str, Any]:
        serving = self.registry.serving_model()
        if serving is None:
            raise JobError(
                "no model serves yet, so a class cannot be added to it; "
                "make and release a first model"
            )
        cases = self._cases_in(CaseState.TRAINING, job.job_id)
        if not cases:
            raise JobError("none of its cases waits for a training any more")
        plan = json.dumps([[case.hospital, case.case_id] for case in cases])
        write_private(self.settings.jobs_folder / job.job_id / _PLAN, plan.encode())
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
            "champion": str(serving.folder),
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
        """Return class name in a mirror -> name in the catalogue, where the two differ."""
        used = {name for mirror in self.mirrors.values() for name in mirror.class_counts()}
        known = {
            name: entry.name for name in used if (entry := self.catalogue.find(name)) is not None
        }
        return {name: entry_name for name, entry_name in known.items() if name != entry_name}

    def _release_file(self, job: Job) -> Mapping[str, Any]:
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

    def _settle_training(self, job: Job, jobs: JobQueue) -> None:
        if job.state == "failed":
            for case in self._cases_in(CaseState.TRAINING, job.job_id):
                self._act(case, "fail_training", SYSTEM, job.error)
        elif not jobs.find("register", subject=job.job_id):
            jobs.add("register", job.user, job.role, subject=job.job_id)

    def _finish_training(self, training_id: str, version: str | None) -> None:
        """Move cases on to evaluation, also without a version: the release then registers it."""
        for case in self._cases_in(CaseState.TRAINING, training_id):
            self._act(case, "finish_training", SYSTEM, "", version)

    def _settle_release(self, job: Job) -> None:
        cases = self.store.of_training(job.subject)
        self._act_on_cases(job, CaseState.EVALUATED, "release")
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

    def _act_on_cases(self, job: Job, state: CaseState, action: str) -> None:
        for case in self._cases_in(state, job.subject):
            self._act(case, action, Actor(job.user, Role(job.role)), job.reason)

    def _cases_in(self, state: CaseState, training_id: str) -> list[Case]:
        return [case for case in self.store.of_training(training_id) if case.state is state]

    def _act(
        self, case: Case, action: str, actor: Actor, reason: str, version: str | None = None
    ) -> None:
        """Record a step that the model has already taken; an error is logged and stops nothing."""
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


def start_training(store: ReviewStore, jobs: JobQueue, cases: Sequence[Case], actor: Actor) -> Job:
    """Put approved cases into the waiting training, or into a new one.

    Raises:
        WorkflowError: If a case may not be trained now.
    """
    with jobs.locked():
        job = next(
            (job for job in jobs.find("training") if job.state == "waiting" and job.attempts == 0),
            None,
        )
        job = job or jobs.add("training", actor.user, actor.role)
        for case in cases:
            store.act(case.case_id, "start_training", actor, hospital=None, training_id=job.job_id)
    return job


def cases_at_start(store: ReviewStore, jobs: JobQueue, training_id: str) -> list[Case]:
    """Return the cases with which a training began, in their present state."""
    path = jobs.folder / jobs.get(training_id).job_id / _PLAN
    try:
        return [
            store.case(hospital, case_id) for hospital, case_id in json.loads(path.read_bytes())
        ]
    except (FileNotFoundError, CaseNotFound):
        return []
