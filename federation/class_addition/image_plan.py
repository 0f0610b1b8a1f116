"""Image plan of a class addition: the ids of images for training and of held-out images.

Whether an image is held out depends only on a hash of its id (or of its patient's pseudonym).
It is therefore held out from every training or from none, whatever arrives later, and a candidate
and its champion are compared on images that neither has seen.
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

ImageIds = dict[str, list[str]]  # class name -> image ids, in order of arrival
_BATCH_SIZE = 5000


class AdditionError(ValueError):
    """A class addition that cannot be run: what, got, allowed, what to do."""


@dataclass(frozen=True)
class AdditionHospital:
    """A hospital that takes part.

    Args:
        hospital_id: Its name in the federation.
        mirror: Folder of its mirror.
        new_images: Class name -> ids of the images that clinicians approved; none: all images that
            have a name.
    """

    hospital_id: str
    mirror: Path
    new_images: Mapping[str, Sequence[str]] | None


@dataclass(frozen=True)
class ImageLimits:
    """Bounds on the number of images.

    Args:
        images_per_class: Most training images of one class in one hospital.
        held_out_fraction: Share of images that is never trained on; at least one of two or more.
        held_out_per_class: Most held-out images of one class in one hospital that are measured on.
        held_out_by: ``image``, or ``patient``: all images of a patient are held out or none.
    """

    images_per_class: int
    held_out_fraction: float
    held_out_per_class: int
    held_out_by: Literal["image", "patient"]


@dataclass(frozen=True)
class HospitalPlan:
    """The images of one hospital that take part.

    Args:
        hospital_id: Name of the hospital.
        mirror: Folder of its mirror.
        known: Named training images of classes that the champion knows.
        approved: Approved training images, of new or known classes.
        held_out: Images that are never trained on.
    """

    hospital_id: str
    mirror: str
    known: ImageIds
    approved: ImageIds
    held_out: ImageIds


@dataclass(frozen=True)
class ImagePlan:
    """All images of a class addition."""

    hospitals: tuple[HospitalPlan, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the plan without the mirrors' folders."""
        plain = [{**each, "mirror": ""} for each in self.as_plain()]
        return "sha256:" + hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def approved_names(self) -> tuple[str, ...]:
        """Return the classes of the approved images, in the order of the hospitals."""
        return tuple(dict.fromkeys(name for each in self.hospitals for name in each.approved))

    def count(
        self, group: Literal["known", "approved", "held_out"], class_name: str | None = None
    ) -> int:
        """Return the number of images in a group, of one class or of all."""
        by_class: list[ImageIds] = [getattr(each, group) for each in self.hospitals]
        if class_name is not None:
            return sum(len(each.get(class_name, ())) for each in by_class)
        return sum(len(ids) for each in by_class for ids in each.values())

    def as_plain(self) -> list[dict[str, Any]]:
        """Return the plan as plain data for JSON."""
        return [asdict(each) for each in self.hospitals]

    @classmethod
    def from_plain(cls, plain: Sequence[Mapping[str, Any]]) -> "ImagePlan":
        """Return the plan that ``as_plain`` returned as plain data."""
        return cls(tuple(HospitalPlan(**each) for each in plain))


def make_plan(
    hospitals: Sequence[AdditionHospital],
    known_names: Sequence[str],
    limits: ImageLimits,
    synonyms: Mapping[str, str],
    class_names: Sequence[str] | None = None,
) -> ImagePlan:
    """Choose the images of a class addition.

    Args:
        hospitals: The hospitals that take part.
        known_names: Classes of the champion; empty for a first model.
        limits: Bounds on the number of images.
        synonyms: Class names in the mirrors -> class names of the model.
        class_names: Where all named images count as approved: only these classes; none: all.

    Raises:
        AdditionError: If an image is approved for two classes, no image is approved, or a class has
            too few images to train on and to measure on.
        MirrorError: If a mirror or an image is missing.
    """
    plan = ImagePlan(
        tuple(
            _plan_hospital(each, known_names, limits, synonyms, class_names) for each in hospitals
        )
    )
    names = plan.approved_names()
    if not names:
        raise AdditionError(
            f"nothing is approved in {', '.join(each.hospital_id for each in hospitals)}; "
            "needed: images of at least one class"
        )
    champions_spelling = {exact_key(name): name for name in known_names}
    for name in names:
        known_as = champions_spelling.get(exact_key(name), name)
        if known_as != name:
            raise AdditionError(
                f"class {name!r} is {known_as!r} to the champion; "
                "allowed: the champion's spelling; use that"
            )
        num_train = plan.count("approved", name) + plan.count("known", name)
        num_held_out = plan.count("held_out", name)
        if not num_train or not num_held_out:
            raise AdditionError(
                f"class {name!r} has {num_train + num_held_out} images; needed: two in one "
                "hospital at least, one to learn from and one to measure on; approve more"
            )
    return plan


def _plan_hospital(
    hospital: AdditionHospital,
    known_names: Sequence[str],
    limits: ImageLimits,
    synonyms: Mapping[str, str],
    class_names: Sequence[str] | None,
) -> HospitalPlan:
    mirror = Mirror.open_existing(hospital.mirror)
    try:
        named, patients = _named_images(mirror, synonyms)
        approved = _approved_images(hospital, named, class_names)
        taken = {image_id for ids in approved.values() for image_id in ids}
        known = {
            name: [each for each in named.get(name, []) if each not in taken]
            for name in known_names
        }
        others = sorted(taken - set(patients))
        patients |= {each.image_id: each.patient for each in mirror.facts(others)}
    finally:
        mirror.close()
    held_out: ImageIds = {}
    for name in dict.fromkeys((*known, *approved)):
        ids = [*known.get(name, []), *approved.get(name, [])]
        by_image = limits.held_out_by == "image"
        order = _hash_order(ids if by_image else [patients[each] or each for each in ids])
        is_held_out = hold_out(order, limits.held_out_fraction)
        held_out[name] = _choose(ids, order, is_held_out, limits.held_out_per_class)
        train = set(_choose(ids, -order, ~is_held_out, limits.images_per_class))
        for group in (known, approved):
            if name in group:
                group[name] = [each for each in group[name] if each in train]
    groups = (
        {name: ids for name, ids in group.items() if ids} for group in (known, approved, held_out)
    )
    return HospitalPlan(hospital.hospital_id, str(hospital.mirror), *groups)


def _named_images(mirror: Mirror, synonyms: Mapping[str, str]) -> tuple[ImageIds, dict[str, str]]:
    """Return the named images by class, and image id -> patient."""
    named: ImageIds = {}
    patients: dict[str, str] = {}
    for facts in _named_image_facts(mirror):
        if facts.class_name is not None:
            name = synonyms.get(facts.class_name, facts.class_name)
            named.setdefault(name, []).append(facts.image_id)
            patients[facts.image_id] = facts.patient
    return named, patients


def _named_image_facts(mirror: Mirror) -> Iterator[ImageFacts]:
    ids = iter(mirror.ids(named=True))
    while part := list(islice(ids, _BATCH_SIZE)):
        yield from mirror.facts(part)


def _approved_images(
    hospital: AdditionHospital, named: ImageIds, class_names: Sequence[str] | None
) -> ImageIds:
    if hospital.new_images is None:
        wanted = sorted(named) if class_names is None else sorted(set(named) & set(class_names))
        return {name: named[name] for name in wanted}
    approved = {name: list(dict.fromkeys(ids)) for name, ids in hospital.new_images.items() if ids}
    class_of: dict[str, str] = {}
    for name, ids in approved.items():
        for image_id in ids:
            if class_of.setdefault(image_id, name) != name:
                raise AdditionError(
                    f"image {image_id} of {hospital.hospital_id} is approved as "
                    f"{class_of[image_id]!r} and as {name!r}; allowed: one class; "
                    "take it out of one of the cases"
                )
    return approved


def hold_out(order: NDArray[np.float64], fraction: float) -> NDArray[np.bool_]:
    """Choose the images that are held out from training.

    Args:
        order: A number per image, in [0, 1), equal for images that stay together, shape [N].
        fraction: Images with a smaller number are held out.

    Returns:
        True where an image is held out, shape [N]. Never all are; of two or more different numbers
        at least the smallest is. When images arrive, a held-out image may become a training image,
        and only the image with the largest number may go the other way.
    """
    if not fraction or len(np.unique(order)) < 2:
        return np.zeros(len(order), bool)
    return np.asarray(((order < fraction) | (order == order.min())) & (order != order.max()))


def _hash_order(keys: Sequence[str]) -> NDArray[np.float64]:
    """Return a number in [0, 1) per key that depends only on the key."""
    digests = (hashlib.blake2b(f"held out\0{key}".encode(), digest_size=6).digest() for key in keys)
    return np.array([int.from_bytes(each) / 2**48 for each in digests], np.float64)


def _choose(
    ids: Sequence[str], order: NDArray[np.float64], is_wanted: NDArray[np.bool_], most: int
) -> list[str]:
    """Return the ``most`` wanted ids that are lowest in ``order``, in the order of ``ids``."""
    indices = np.flatnonzero(is_wanted)
    chosen = np.sort(indices[np.argsort(order[indices], kind="stable")[:most]])
    return [ids[index] for index in chosen]
