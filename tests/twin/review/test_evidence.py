from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from physical.mirror import ImageFacts
from twin.review.cases import CaseImage
from twin.review.evidence import (
    BINS,
    Sighted,
    case_images,
    exemplars,
    histogram,
    nearest_classes,
    representatives,
    summarise,
)
from twin.review.novelty_scores import Looks
from twin.review.reference_images import ReferenceImages, make_reference_images

NAMES = ("heart", "liver", "spleen")


def facts_of(count: int, name: str, per_patient: int = 4) -> list[ImageFacts]:
    return [
        ImageFacts(
            f"{name}-{index:03d}", f"t{index:03d}", f"p{index // per_patient}", "", name, "png"
        )
        for index in range(count)
    ]


def features_of(direction: int, count: int, seed: int = 0) -> NDArray[Any]:
    return (
        np.eye(5)[direction] + np.random.default_rng([seed, direction]).normal(0, 0.1, (count, 5))
    ).astype(np.float32)


@pytest.fixture(scope="module")
def standard() -> ReferenceImages:
    facts = [each for name in NAMES for each in facts_of(40, name)]
    features = np.concatenate([features_of(direction, 40) for direction in range(3)])
    return make_reference_images(
        facts, Looks(features, 9 * features[:, :3]), "entropy", 0.95, 20, 0.25
    )


def image(name: str, entropy: float = 0.5, distance: float = 0.1) -> CaseImage:
    return CaseImage(name, entropy, (("liver", 1.0),), distance, "t")


def test_every_entropy_is_counted_in_its_bin() -> None:
    values = np.array([0, 0.01, 0.05, 0.5, 0.999, 1.0, 1.0000001])
    expected = [0] * BINS
    for value in values:
        expected[min(int(value * BINS), BINS - 1)] += 1
    assert histogram(values) == tuple(expected)
    assert histogram(np.empty(0)) == (0,) * BINS


def test_the_nearest_class_is_the_one_in_whose_direction_the_group_lies(
    standard: ReferenceImages,
) -> None:
    group = features_of(1, 10, seed=5) + np.array([0.3, 0, 0, 0, 0.5], np.float32)
    nearest = nearest_classes(group, standard.known)
    assert [name for name, _ in nearest] == ["liver", "heart", "spleen"]
    mean = (group / np.linalg.norm(group, axis=1, keepdims=True)).mean(0)
    liver = standard.known.means[1]
    assert nearest[0][1] == pytest.approx(
        mean @ liver / np.linalg.norm(mean) / np.linalg.norm(liver), abs=1e-6
    )


def test_exemplars_are_typical_and_of_different_patients(standard: ReferenceImages) -> None:
    chosen = exemplars("liver", standard)
    patients = {each.image_id: each.patient for each in standard.facts}
    assert len(chosen) == 6
    assert all(name.startswith("liver") for name in chosen)
    assert len({patients[name] for name in chosen}) == 6


def test_a_class_of_one_patient_still_has_exemplars() -> None:
    facts = [each for name in NAMES for each in facts_of(20, name, per_patient=20)]
    features = np.concatenate([features_of(direction, 20) for direction in range(3)])
    standard = make_reference_images(
        facts, Looks(features, 9 * features[:, :3]), "entropy", 0.95, 20, 0.25
    )
    assert len(set(exemplars("heart", standard))) == 6


@pytest.mark.parametrize(("count", "shown"), [(1, 1), (5, 5), (400, 12)])
def test_representatives_reach_from_the_centre_to_the_border(count: int, shown: int) -> None:
    images = [image(f"i{index:03d}", distance=index / count) for index in range(count)][::-1]
    chosen = representatives(images)
    assert len(set(chosen)) == len(chosen) == shown
    assert chosen[0] == "i000"
    assert chosen[-1] == f"i{count - 1:03d}"


def test_distances_are_those_from_the_centre(standard: ReferenceImages) -> None:
    features = features_of(4, 6)
    looks = Looks(features, 9 * features[:, :3])
    centre = np.array([0, 0, 0, 0, 0.5])
    images = case_images(Sighted(tuple(facts_of(6, "new")), looks, features), centre, NAMES)
    slow = [1 - each[4] / np.linalg.norm(each) for each in features]
    assert [each.distance for each in images] == pytest.approx(slow, abs=1e-6)
    assert [each.entropy for each in images] == pytest.approx(looks.entropy_fractions.tolist())
    assert [each.image_id for each in images] == [f"new-{index:03d}" for index in range(6)]
    assert all(each.selected and len(each.top) == 3 for each in images)


def test_a_summary_counts_all_images_and_compares_with_the_usual(standard: ReferenceImages) -> None:
    images = [image(f"i{index}", entropy=index / 10) for index in range(10)]
    features = features_of(4, 4)
    summary = summarise(images, Looks(features, features[:, :3]), standard, "7")
    assert summary.num_images == sum(summary.entropy_histogram) == 10
    assert summary.mean_entropy == pytest.approx(0.45)
    assert sum(summary.usual_histogram) == 120
    assert (summary.score_name, summary.threshold, summary.model_version) == (
        "entropy",
        standard.threshold,
        "7",
    )
    assert set(summary.nearest_exemplars) == {name for name, _ in summary.nearest} == set(NAMES)
