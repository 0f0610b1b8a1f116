"""Which images of a hospital are trained on and which are held out. Knows image ids and names; no pixel, no model.

What is held out hangs on a hash of the image's id (or the patient's pseudonym) alone, so that an image is held out from every training or
from none, whatever arrived since, and a candidate and its champion are compared on images that neither has seen.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from federation.catalogue.class_names import exact_key
from physical.mirror import ImageFacts, Mirror

Names = dict[str, list[str]]  # class name -> image ids, in order of arrival
_FACTS_AT_ONCE = 5000


class AdditionError(ValueError):
    """A class addition that cannot be run: what, got, allowed, what to do."""


@dataclass(frozen=True)
class AdditionHospital:
    """A hospital that takes part.

    Args:
        hospital_id: Its name in the federation.
        mirror: Folder of its mirror.
        new_images: Class name -> ids of the images that clinicians selected and approved; none: every image that has a name already.
    """

    hospital_id: str
    mirror: Path
    new_images: Mapping[str, Sequence[str]] | None


@dataclass(frozen=True)
class Limits:
    """How many images take part.

    Args:
        images_per_class: Most training images of one class in one hospital.
        held_out_fraction: Share of images that is never trained on; of two or more at least one.
        held_out_per_class: Most of these that are measured on, of one class in one hospital.
        held_out_by: ``image``; ``patient``: all images of a patient go the same way.
    """

    images_per_class: int
    held_out_fraction: float
    held_out_per_class: int
    held_out_by: Literal["image", "patient"]


@dataclass(frozen=True)
class HospitalPlan:
    """The images of one hospital that take part.

    Args:
        hospital_id: Whose.
        mirror: Folder of its mirror.
        known: Named images of classes that the champion knows: the twin's own data.
        approved: What arrives now: approved images, of new or known classes.
        held_out: Never trained on.
    """

    hospital_id: str
    mirror: str
    known: Names
    approved: Names
    held_out: Names


@dataclass(frozen=True)
class Plan:
    """All images of an addition, frozen when it begins, so that a process that starts again makes the same model."""

    hospitals: tuple[HospitalPlan, ...]

    @property
    def digest(self) -> str:
        """Digest of who trains on what."""
        text = json.dumps(
            [{**asdict(each), "mirror": ""} for each in self.hospitals], sort_keys=True
        )
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def approved_names(self) -> tuple[str, ...]:
        """Return the classes of what was approved, in the order of the hospitals."""
        return tuple(dict.fromkeys(name for each in self.hospitals for name in each.approved))

    def count(self, what: Literal["known", "approved", "held_out"], name: str | None = None) -> int:
        """Return the number of images, of one class or of all."""
        groups = [getattr(each, what) for each in self.hospitals]
        return sum(
            len(ids) for group in groups for each, ids in group.items() if name in (None, each)
        )

    def as_plain(self) -> list[dict[str, Any]]:
        """Return the plan as plain data."""
        return [asdict(each) for each in self.hospitals]


def from_plain(plain: Sequence[Mapping[str, Any]]) -> Plan:
    """Return the plan that ``as_plain`` took apart."""
    return Plan(tuple(HospitalPlan(**each) for each in plain))


def make_plan(
    hospitals: Sequence[AdditionHospital],
    known_names: Sequence[str],
    limits: Limits,
    synonyms: Mapping[str, str],
    class_names: Sequence[str] | None = None,
) -> Plan:
    """Choose the images.

    Args:
        hospitals: Who takes part.
        known_names: Classes of the champion; empty for a first model.
        limits: How many.
        synonyms: Names as mirrors have them -> names of the model.
        class_names: Where every named image counts as approved: only these classes; none: all.

    Raises:
        AdditionError: If an image is approved for two classes, nothing is approved, or a class cannot be both learned and measured.
        MirrorError: If a mirror or an image is not there.
    """
    plan = Plan(
        tuple(
            _plan_hospital(each, known_names, limits, synonyms, class_names) for each in hospitals
        )
    )
    names = plan.approved_names()
    if not names:
        raise AdditionError(
            f"nothing is approved in {', '.join(each.hospital_id for each in hospitals)}; needed: images of one class at least"
        )
    spelled = {exact_key(name): name for name in known_names}
    for name in names:
        if spelled.get(exact_key(name), name) != name:
            raise AdditionError(
                f"class {name!r} is {spelled[exact_key(name)]!r} to the champion; allowed: the champion's spelling; use that"
            )
        train, held_out = (
            plan.count("approved", name) + plan.count("known", name),
            plan.count("held_out", name),
        )
        if not train or not held_out:
            raise AdditionError(
                f"class {name!r} has {train + held_out} images; needed: two in one hospital at least, one to learn from and one to "
                "measure on; approve more"
            )
    return plan


def _plan_hospital(
    hospital: AdditionHospital,
    known_names: Sequence[str],
    limits: Limits,
    synonyms: Mapping[str, str],
    class_names: Sequence[str] | None,
) -> HospitalPlan:
    mirror = Mirror.at(hospital.mirror)
    try:
        named, patients = _named(mirror, synonyms)
        approved = _approved(hospital, named, class_names)
        taken = {image_id for ids in approved.values() for image_id in ids}
        known = {
            name: [each for each in named.get(name, []) if each not in taken]
            for name in known_names
        }
        patients |= {
            each.image_id: each.patient for each in mirror.facts(sorted(taken - set(patients)))
        }
    finally:
        mirror.close()
    held_out: Names = {}
    for name in dict.fromkeys((*known, *approved)):
        ids = [*known.get(name, []), *approved.get(name, [])]
        order = _order(
            ids if limits.held_out_by == "image" else [patients[each] or each for each in ids]
        )
        kept_out = hold_out(order, limits.held_out_fraction)
        held_out[name] = _at_most(ids, order, kept_out, limits.held_out_per_class)
        train = set(_at_most(ids, -order, ~kept_out, limits.images_per_class))
        for group in (known, approved):
            if name in group:
                group[name] = [each for each in group[name] if each in train]
    groups = (
        {name: ids for name, ids in group.items() if ids} for group in (known, approved, held_out)
    )
    return HospitalPlan(hospital.hospital_id, str(hospital.mirror), *groups)


def _named(mirror: Mirror, synonyms: Mapping[str, str]) -> tuple[Names, dict[str, str]]:
    """Return the named images by class, and each one's patient."""
    named: Names = {}
    patients: dict[str, str] = {}
    for facts in _facts(mirror):
        if facts.class_name is not None:
            named.setdefault(synonyms.get(facts.class_name, facts.class_name), []).append(
                facts.image_id
            )
            patients[facts.image_id] = facts.patient
    return named, patients


def _facts(mirror: Mirror) -> Iterator[ImageFacts]:
    ids = iter(mirror.ids(named=True))
    while part := list(islice(ids, _FACTS_AT_ONCE)):
        yield from mirror.facts(part)


def _approved(hospital: AdditionHospital, named: Names, class_names: Sequence[str] | None) -> Names:
    if hospital.new_images is None:
        return {
            name: ids
            for name, ids in sorted(named.items())
            if class_names is None or name in class_names
        }
    approved = {name: list(dict.fromkeys(ids)) for name, ids in hospital.new_images.items() if ids}
    owner: dict[str, str] = {}
    for name, ids in approved.items():
        for image_id in ids:
            if owner.setdefault(image_id, name) != name:
                raise AdditionError(
                    f"image {image_id} of {hospital.hospital_id} is approved as {owner[image_id]!r} and as {name!r}; allowed: one class; "
                    "take it out of one of the cases"
                )
    return approved


def hold_out(order: NDArray[np.float64], fraction: float) -> NDArray[np.bool_]:
    """Choose what is kept out of training.

    Args:
        order: A number for each image in [0, 1), equal for those that go together, shape [N].
        fraction: Below it an image is kept out.

    Returns:
        True where an image is kept out: never all, and of two or more different numbers at least the smallest. As images are added
        the smallest can only become smaller, so what was kept out stays so or is trained on later, not the other way round.
    """
    if not fraction or len(np.unique(order)) < 2:
        return np.zeros(len(order), bool)
    return np.asarray(((order < fraction) | (order == order.min())) & (order != order.max()))


def _order(keys: Sequence[str]) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each key that hangs on nothing but the key."""
    digests = (hashlib.blake2b(f"held out\0{key}".encode(), digest_size=6).digest() for key in keys)
    return np.array([int.from_bytes(each) / 2**48 for each in digests], np.float64)


def _at_most(
    ids: Sequence[str], order: NDArray[np.float64], wanted: NDArray[np.bool_], most: int
) -> list[str]:
    """Return the wanted ids, at most so many, lowest in order first; in their own order."""
    places = np.flatnonzero(wanted)
    chosen = np.sort(places[np.argsort(order[places], kind="stable")[:most]])
    return [ids[place] for place in chosen]
