from math import log

import pytest

from federation.flare.observation_checks import MOST_NEW_CLASSES, objection_to_observation
from incremental.detection import ENTROPY_WITHOUT_CLASSES
from twin.messages import Observation

LEVELS = tuple(log(4) * level / 18 for level in range(19))


@pytest.mark.parametrize(
    ("said", "num_classes"),
    [
        (Observation("a", 0, 0, False), 0),
        (Observation("a", 0, 40, True, ("liver", "heart"), threshold=0.0, num_trainable=40), 0),
        (Observation("a", 3, 0, False, (), 1.0, 0.3, 0.4, 40, 19, 19, LEVELS, (True, False)), 4),
        (Observation("a", 3, 5, True, tuple(map(str, range(MOST_NEW_CLASSES)))), 4),
        (Observation("a", 3, 5, True, (), None, ENTROPY_WITHOUT_CLASSES, 0.0), 1),
        (Observation("a", 3, 0, False, num_held_back=20, usual_entropy=(0.0,) * 19), 1),
    ],
)
def test_what_can_be_passes(said: Observation, num_classes: int) -> None:
    assert objection_to_observation(said, num_classes) is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Observation("a", 0, -1, False), "counts images as"),
        (Observation("a", 0, 0, False, num_held_back=3, num_correct=4), "counts images as"),
        (Observation("a", 0, 0, False, entropy=1.01), "entropy 0 to 1"),
        (Observation("a", 0, 0, False, threshold=float("inf")), "finite"),
        (Observation("a", 0, 0, True, (" ",)), "without a name"),
        (Observation("a", 0, 0, True, ("n" * 101,)), "more than 100 characters"),
        (Observation("a", 0, 0, False, ("liver",)), "nothing is new"),
        (Observation("a", 0, 0, False, num_held_back=20, usual_entropy=LEVELS[::-1]), "ascending"),
        (
            Observation("a", 0, 0, False, num_held_back=20, usual_entropy=(*LEVELS[:-1], 1.4)),
            "0 to 1.387 nats for 4 classes",
        ),
        (
            Observation("a", 0, 0, False, num_held_back=18, usual_entropy=LEVELS),
            "19 quantiles of 18 images",
        ),
    ],
)
def test_what_cannot_be_is_said_in_words(said: Observation, words: str) -> None:
    assert words in str(objection_to_observation(said, 4))
