"""The job of a class addition: the content of its ``job.json``, and the steps from plan to verdict.

All that can change the candidate stands in the job file or in ``plan.json``, which is written once.
A process that was killed and starts again therefore makes the same model, even if images arrived.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic.dataclasses
from pydantic import ConfigDict, Field

from federation.catalogue.class_names import check_name
from federation.class_addition.image_plan import AdditionHospital, ImagePlan, make_plan
from federation.class_addition.mirrored_hospitals import read_images
from federation.class_addition.training import AdditionConfig, add_classes
from federation.jobs.runner import Identifier, JobFolder
from federation.release.comparison import HeldOut, compare
from federation.release.rules import ReleaseRules, judge
from incremental.model_file import load_model, read_manifest

PLAN_FILE, CANDIDATE = "plan.json", "candidate"
COMPARISON_FILE, MAPS_FILE = "comparison.json", "attention.npz"
_STRICT = ConfigDict(extra="forbid")


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class HospitalOfJob:
    """A hospital of a job.

    Args:
        hospital_id: Its name in the federation.
        mirror: Absolute folder of its mirror.
        new_images: Class name -> ids of approved images; none, for a first model: all named images.
    """

    hospital_id: Identifier
    mirror: Path
    new_images: dict[str, list[str]] | None = None


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class AdditionJob:
    """A class addition.

    Args:
        job_id: Id of the training.
        hospitals: All hospitals of the federation, also those without approved images.
        champion: Absolute model folder; none: a first model is trained from nothing.
        synonyms: Class names in the mirrors -> class names of the model.
        class_names: For a first model: only these of all named classes; none: all.
        seed: Seed of everything random.
        config: Settings of the training.
        rules: Rules by which the candidate is judged.
    """

    job_id: Identifier
    hospitals: Annotated[tuple[HospitalOfJob, ...], Field(min_length=1)]
    champion: Path | None = None
    synonyms: dict[str, str] = Field(default_factory=dict)
    class_names: list[str] | None = None
    seed: int = 1
    config: AdditionConfig = Field(default_factory=AdditionConfig)
    rules: ReleaseRules = Field(default_factory=ReleaseRules)

    def __post_init__(self) -> None:
        """Check the values that must fit together."""
        ids = [each.hospital_id for each in self.hospitals]
        if len(set(ids)) != len(ids):
            raise ValueError(f"hospitals are {', '.join(ids)}; allowed: each once")
        for path in (self.champion, *(each.mirror for each in self.hospitals)):
            if path is not None and not path.is_absolute():
                raise ValueError(f"a path is {path}; allowed: absolute paths")
        if self.champion is not None and any(each.new_images is None for each in self.hospitals):
            raise ValueError(
                "new_images is missing although there is a champion; "
                "needed: the approved images, {} where a hospital has none"
            )
        approved = [name for each in self.hospitals for name in each.new_images or ()]
        for name in (*approved, *self.synonyms.values(), *(self.class_names or ())):
            if check_name(name) != name:
                raise ValueError(
                    f"class name {name!r}; allowed: as the catalogue writes it, "
                    f"{check_name(name)!r}"
                )


def run_addition(job: AdditionJob, folder: JobFolder) -> dict[str, Any]:
    """Train a candidate, compare it with the champion and judge it.

    Args:
        job: The job.
        folder: Its folder; candidate, comparison and attention maps are written there.

    Returns:
        The result.
    """
    folder.add_progress("prepare", 0, 1, "Choosing images")
    known = [] if job.champion is None else read_manifest(job.champion)["class_names"]
    plan = _load_or_make_plan(job, folder, known)
    for name in plan.approved_names():
        check_name(name)  # a first model takes class names as senders wrote them
    images = f"{plan.count('known')} known and {plan.count('approved')} approved images"
    text = f"{len(plan.hospitals)} hospitals: {images}, {plan.count('held_out')} held out"
    folder.add_progress("prepare", 1, 1, text)
    candidate = folder.path / CANDIDATE
    result = add_classes(job.champion, plan, job.config, candidate, job.seed, folder.add_progress)
    text = "Comparing candidate and champion on held-out images"
    folder.add_progress("compare", 0, 1, text)
    side = load_model(candidate)[0].config.image_size
    held_out = _read_held_out(plan, result.class_names, side)
    comparison, maps = compare(candidate, job.champion, held_out)
    verdict = judge(comparison, job.rules)
    folder.write(MAPS_FILE, maps.as_bytes())
    plain = {**comparison.as_plain(), "verdict": verdict.as_plain()}
    path = folder.write_json(COMPARISON_FILE, plain)
    folder.add_progress("compare", 1, 1, f"The light is {verdict.overall}")
    return {
        "candidate": str(candidate),
        "digest": result.digest,
        "class_names": list(result.class_names),
        "grew": list(result.grew),
        "rounds": job.config.rounds,
        "accuracy": result.evaluation.accuracy,
        "macro_f1": result.evaluation.macro_f1,
        "seconds": round(result.seconds, 3),
        "job_id": job.job_id,
        "comparison": str(path),
        "light": str(verdict.overall),
    }


def _load_or_make_plan(job: AdditionJob, folder: JobFolder, known: Sequence[str]) -> ImagePlan:
    """Return the plan that was saved for this job, or make and save it."""
    question = [
        [(each.hospital_id, str(each.mirror), each.new_images) for each in job.hospitals],
        list(known),
        job.synonyms,
        job.class_names,
        pydantic.TypeAdapter(AdditionConfig).dump_python(job.config, mode="json"),
    ]
    asked = hashlib.sha256(json.dumps(question).encode()).hexdigest()
    saved = folder.read_json(PLAN_FILE)
    if isinstance(saved, dict) and saved.get("asked") == asked:
        return ImagePlan.from_plain(saved["hospitals"])
    hospitals = [
        AdditionHospital(each.hospital_id, each.mirror, each.new_images) for each in job.hospitals
    ]
    plan = make_plan(hospitals, known, job.config.limits, job.synonyms, job.class_names)
    plain = {"asked": asked, "digest": plan.digest, "hospitals": plan.as_plain()}
    folder.write_json(PLAN_FILE, plain)
    return plan


def _read_held_out(plan: ImagePlan, vocabulary: Sequence[str], side: int) -> HeldOut:
    batches = [read_images(each, each.held_out, vocabulary, side) for each in plan.hospitals]
    rows = [
        (class_name, each.hospital_id, image_id)
        for each in plan.hospitals
        for class_name, ids in each.held_out.items()
        for image_id in ids
    ]
    images = np.concatenate([each.images[..., 0] for each in batches])
    return HeldOut(
        images,
        truth=tuple(class_name for class_name, _, _ in rows),
        hospitals=tuple(hospital for _, hospital, _ in rows),
        image_ids=tuple(image_id for _, _, image_id in rows),
    )
