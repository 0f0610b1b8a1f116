"""The job of a class addition: its file, and the steps from plan to verdict. Knows no page and no registry.

Everything that can change the candidate is in the job's file or, frozen when it begins, in ``plan.json``: a process that was killed and
starts again makes the same model, even if images arrived meanwhile.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic.dataclasses
from pydantic import ConfigDict, Field, StringConstraints

from federation.catalogue.class_names import check_name
from federation.class_addition.addition import AdditionConfig, AdditionResult, add_classes
from federation.class_addition.hospitals import read_images
from federation.class_addition.images import AdditionHospital, Plan, from_plain, make_plan
from federation.jobs.job_folder import JobFolder
from federation.release.comparison import HeldOut, compare
from federation.release.rules import ReleaseRules, judge
from incremental.model_file import load_model, read_manifest

PLAN_FILE, CANDIDATE, COMPARISON_FILE, MAPS_FILE = (
    "plan.json",
    "candidate",
    "comparison.json",
    "attention.npz",
)
_STRICT = ConfigDict(extra="forbid")
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class HospitalOfJob:
    """A hospital of a job: its mirror, and class name -> ids of approved images (none: all named images, for a first model)."""

    hospital_id: Id
    mirror: Path
    new_images: dict[str, list[str]] | None = None


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class AdditionJob:
    """A class addition.

    Args:
        job_id: Of the training.
        hospitals: All of the federation, those without approved images too.
        champion: Model folder; none: a first model is trained from nothing.
        synonyms: Class names as mirrors have them -> names of the model, as the catalogue resolves them.
        class_names: For a first model of all named images: only these classes; none: all.
        seed: Of everything random.
        config: How it is trained.
        rules: How the candidate is judged.
    """

    job_id: Id
    hospitals: Annotated[tuple[HospitalOfJob, ...], Field(min_length=1)]
    champion: Path | None = None
    synonyms: dict[str, str] = Field(default_factory=dict)
    class_names: list[str] | None = None
    seed: int = 1
    config: AdditionConfig = Field(default_factory=AdditionConfig)
    rules: ReleaseRules = Field(default_factory=ReleaseRules)

    def __post_init__(self) -> None:
        """Check what must fit together."""
        ids = [each.hospital_id for each in self.hospitals]
        if len(set(ids)) != len(ids):
            raise ValueError(f"hospitals are {', '.join(ids)}; allowed: each once")
        for path in (self.champion, *(each.mirror for each in self.hospitals)):
            if path is not None and not path.is_absolute():
                raise ValueError(f"a path is {path}; allowed: absolute paths")
        if self.champion is not None and any(each.new_images is None for each in self.hospitals):
            raise ValueError(
                "new_images is missing although there is a champion; needed: the approved images, {} where a hospital has none"
            )
        given = [name for each in self.hospitals for name in each.new_images or ()]
        for name in (*given, *self.synonyms.values(), *(self.class_names or ())):
            if check_name(name) != name:
                raise ValueError(
                    f"class name {name!r}; allowed: as the catalogue writes it, {check_name(name)!r}"
                )


def do(job: AdditionJob, folder: JobFolder) -> dict[str, Any]:
    """Train, compare and judge; write candidate, comparison and maps into the job's folder.

    Args:
        job: What.
        folder: Where.

    Returns:
        The result.
    """
    folder.tell({"step": "prepare", "done": 0, "of": 1, "text": "Choosing images"})
    known = [] if job.champion is None else read_manifest(job.champion)["class_names"]
    plan = _plan(job, folder, known)
    for name in plan.approved_names():
        check_name(name)  # a first model takes names as senders wrote them
    counts = f"{plan.count('known')} known and {plan.count('approved')} approved images, {plan.count('held_out')} held out"
    folder.tell(
        {
            "step": "prepare",
            "done": 1,
            "of": 1,
            "text": f"{len(plan.hospitals)} hospitals: {counts}",
        }
    )
    out = folder.path / CANDIDATE
    result = add_classes(job.champion, plan, job.config, out, job.seed, folder.tell)
    folder.tell(
        {
            "step": "compare",
            "done": 0,
            "of": 1,
            "text": "Comparing candidate and champion on held-out images",
        }
    )
    side = load_model(out)[0].config.image_size
    found, maps = compare(out, job.champion, _held_out(plan, result.class_names, side))
    verdict = judge(found, job.rules)
    folder.write(MAPS_FILE, maps.as_bytes())
    path = folder.write_json(COMPARISON_FILE, {**found.as_plain(), "verdict": verdict.as_plain()})
    folder.tell({"step": "compare", "done": 1, "of": 1, "text": f"The light is {verdict.overall}"})
    return {
        **_summary(result),
        "job_id": job.job_id,
        "comparison": str(path),
        "light": str(verdict.overall),
    }


def _plan(job: AdditionJob, folder: JobFolder, known: Sequence[str]) -> Plan:
    """Return the plan that was frozen for this very job, or make and freeze it."""
    who = [(each.hospital_id, str(each.mirror), each.new_images) for each in job.hospitals]
    asked = json.dumps(
        [
            who,
            list(known),
            job.synonyms,
            job.class_names,
            pydantic.TypeAdapter(AdditionConfig).dump_python(job.config, mode="json"),
        ]
    )
    digest = hashlib.sha256(asked.encode()).hexdigest()
    frozen = folder.read_json(PLAN_FILE)
    if isinstance(frozen, dict) and frozen.get("asked") == digest:
        return from_plain(frozen["hospitals"])
    hospitals = [
        AdditionHospital(each.hospital_id, each.mirror, each.new_images) for each in job.hospitals
    ]
    plan = make_plan(hospitals, known, job.config.limits, job.synonyms, job.class_names)
    folder.write_json(
        PLAN_FILE, {"asked": digest, "digest": plan.digest, "hospitals": plan.as_plain()}
    )
    return plan


def _held_out(plan: Plan, vocabulary: Sequence[str], side: int) -> HeldOut:
    batches = [read_images(each, each.held_out, vocabulary, side) for each in plan.hospitals]
    names = [vocabulary[label] for each in batches for label in each.labels]
    owners = [
        each.hospital_id
        for each, batch in zip(plan.hospitals, batches, strict=True)
        for _ in range(len(batch))
    ]
    ids = [
        image_id
        for each in plan.hospitals
        for group in each.held_out.values()
        for image_id in group
    ]
    return HeldOut(
        np.concatenate([each.images[..., 0] for each in batches]),
        tuple(names),
        tuple(owners),
        tuple(ids),
    )


def _summary(result: AdditionResult) -> dict[str, Any]:
    return {
        "candidate": str(result.candidate),
        "digest": result.digest,
        "class_names": list(result.class_names),
        "grew": list(result.grew),
        "rounds": result.rounds,
        "accuracy": result.evaluation.accuracy,
        "macro_f1": result.evaluation.macro_f1,
        "seconds": round(result.seconds, 3),
    }
