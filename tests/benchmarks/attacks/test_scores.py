import numpy as np
import pytest
import torch

from benchmarks.attacks.scores import confidence, found_at, success
from incremental.inference import logits_of
from incremental.network import IncrementalNetwork, NetworkConfig, build_network, weights_of
from physical.transforms import to_tensor


def test_confidence_is_the_logarithm_of_the_odds_of_the_right_class() -> None:
    config = NetworkConfig(backbone="lenet", width=4, image_size=16, channels=1)
    torch.manual_seed(1)
    weights = weights_of(IncrementalNetwork(config, 3))
    images, rows = (
        np.random.default_rng(1).integers(0, 256, (5, 16, 16, 1), np.uint8),
        np.array([0, 1, 2, 0, 1]),
    )
    shares = (
        logits_of(build_network(config, weights), to_tensor(images))
        .double()
        .softmax(1)
        .numpy()[np.arange(5), rows]
    )
    assert confidence(config, weights, images, rows) == pytest.approx(
        np.log(shares / (1 - shares)), rel=1e-5, abs=1e-6
    )


def test_members_that_all_score_higher_are_all_found() -> None:
    found = success(np.arange(100.0) + 1000, np.arange(1000.0))
    assert (found.auroc, found.at_1_percent, found.at_0_1_percent) == (1.0, 1.0, 1.0)


def test_members_like_others_are_found_as_often_as_others_are_accused() -> None:
    rng = np.random.default_rng(1)
    found = success(rng.normal(size=20_000), rng.normal(size=20_000))
    assert found.auroc == pytest.approx(0.5, abs=0.01)
    assert found.at_1_percent == pytest.approx(0.01, abs=0.003)
    assert found.at_0_1_percent == pytest.approx(0.001, abs=0.001)


def test_a_threshold_accuses_no_more_than_it_may() -> None:
    others = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    assert (
        found_at(np.array([4.5, 5.5]), others, 0.2) == 1.0
    )  # one of five may be accused: what is above 4
    assert found_at(np.array([4.5, 5.5]), others, 0.0) == 0.5  # nobody may
    assert found_at(np.array([4.0, 4.0]), others, 0.2) == 0.0  # ties accuse nobody
