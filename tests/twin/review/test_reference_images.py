from typing import Any

import numpy as np
import pytest

from physical.mirror import ImageFacts
from twin.review.novelty_scores import KnownClasses, Looks, NoveltyError, score, threshold_from
from twin.review.reference_images import make_reference_images


def history(count: int = 120, patients: int = 12, seed: int = 1) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    features = (np.eye(6)[labels] + rng.normal(0, 0.1, (count, 6))).astype(np.float32)
    facts = [
        ImageFacts(f"i{index}", "", f"p{index % patients}", "", "abc"[label], "png")
        for index, label in enumerate(labels)
    ]
    return facts, Looks(features, 5 * features[:, :3])


@pytest.mark.parametrize("name", ["entropy", "max_softmax", "energy"])
def test_the_threshold_is_that_of_all_images_or_of_the_held_back(name: Any) -> None:
    facts, looks = history()
    scores = score(looks.logits, name)
    assert make_reference_images(facts, looks, name, 0.9, 20, 0.25).threshold == threshold_from(
        scores, 0.9, 20
    )
    held_back = [each.image_id for each in facts[:60]]
    assert make_reference_images(
        facts, looks, name, 0.9, 20, 0.25, held_back
    ).threshold == threshold_from(scores[:60], 0.9, 20)
    assert make_reference_images(
        facts, looks, name, 0.9, 20, 0.25, held_back[:19]
    ).threshold == threshold_from(scores, 0.9, 20)


def test_held_back_images_are_measured_by_the_classes_of_the_others() -> None:
    facts, looks = history()
    standard = make_reference_images(
        facts, looks, "distance", 0.9, 20, 0.25, [each.image_id for each in facts[:60]]
    )
    others = KnownClasses.fit(looks.features[60:], [str(each.class_name) for each in facts[60:]])
    assert standard.threshold == threshold_from(others.distance(looks.features[:60]), 0.9, 20)
    np.testing.assert_array_equal(standard.known.means, others.means)


def test_images_are_not_measured_by_those_of_their_own_patient() -> None:
    facts, looks = history(patients=12)  # numbered by arrival, every second one on the other side
    odd = np.array([int(each.patient[1:]) % 2 == 1 for each in facts])
    names = np.array([each.class_name for each in facts])
    one = KnownClasses.fit(looks.features[~odd], list(names[~odd])).distance(looks.features[odd])
    other = KnownClasses.fit(looks.features[odd], list(names[odd])).distance(looks.features[~odd])
    assert make_reference_images(
        facts, looks, "distance", 0.9, 20, 0.25
    ).threshold == threshold_from(np.concatenate([one, other]), 0.9, 20)


@pytest.mark.parametrize("patients", [1, 2, 120])
def test_a_distance_has_a_threshold_whoever_the_patients_are(patients: int) -> None:
    facts, looks = history(patients=patients)
    standard = make_reference_images(facts, looks, "distance", 0.95, 20, 0.25)
    assert 0 < standard.are_new(looks).mean() <= 0.1
    stranger = Looks(np.eye(6, dtype=np.float32)[4:5], np.zeros((1, 3), np.float32))
    assert standard.are_new(stranger).all()


def test_held_back_images_of_a_class_that_the_others_lack_are_not_used_alone() -> None:
    facts, looks = history()
    only_a = [each.image_id for each in facts if each.class_name == "a"]
    standard = make_reference_images(facts, looks, "distance", 0.9, 20, 0.25, only_a)
    assert standard.known.names == ("a", "b", "c")


def test_a_history_that_is_too_small_has_no_standard() -> None:
    facts, looks = history(12)
    with pytest.raises(
        NoveltyError, match=r"the history has 12 named images .* allowed: 20 or more"
    ):
        make_reference_images(facts, looks, "entropy", 0.9, 20, 0.25)


def test_tighter_groups_need_more_similarity() -> None:
    facts, looks = history()
    limits = [
        make_reference_images(facts, looks, "entropy", 0.9, 20, tightness).similarity
        for tightness in (0.0, 0.5, 1.0)
    ]
    assert limits[0] < limits[1] < limits[2] < 1
