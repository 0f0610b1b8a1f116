import numpy as np
import pytest
import torch

from incremental.head import grow_head
from incremental.inference import logits_of
from incremental.model_file import ModelError
from incremental.network import IncrementalNetwork, NetworkConfig, build_network, initial_weights
from incremental.prediction import as_tensor, predict
from physical.batch import Batch
from physical.transforms import to_tensor


@pytest.fixture(scope="module")
def network(tiny_network: NetworkConfig) -> IncrementalNetwork:
    return build_network(
        tiny_network,
        grow_head(initial_weights(tiny_network, 1), 9, torch.Generator().manual_seed(2)),
    )


def test_rows_and_probabilities_follow_the_evaluation_code_bit_for_bit(
    network: IncrementalNetwork, tiny_batch: Batch
) -> None:
    for images in (tiny_batch.images, tiny_batch.images[..., :1]):
        logits = logits_of(network, to_tensor(images))
        assert torch.equal(logits_of(network, as_tensor(images, 3)), logits)
        seen = predict(network, images)
        assert np.array_equal(seen.rows, logits.argmax(1).numpy())
        assert np.allclose(seen.probabilities, logits.softmax(1).numpy(), rtol=0, atol=1e-6)


def test_entropy_is_a_fraction_of_the_largest_possible(
    network: IncrementalNetwork, tiny_batch: Batch
) -> None:
    seen = predict(network, tiny_batch.images)
    by_hand = -(seen.probabilities * np.log(seen.probabilities)).sum(1) / np.log(9)
    assert np.allclose(seen.entropy_fractions, by_hand, atol=1e-5)


def test_grey_images_may_come_without_an_axis_of_channels(
    network: IncrementalNetwork, tiny_batch: Batch
) -> None:
    grey = tiny_batch.images[..., 0]
    assert np.array_equal(
        predict(network, grey).probabilities, predict(network, grey[..., None]).probabilities
    )


def test_images_may_be_read_only(network: IncrementalNetwork, tiny_batch: Batch) -> None:
    grey = tiny_batch.images[..., 0].copy()
    grey.flags.writeable = False
    assert len(predict(network, grey).rows) == len(grey)


def test_no_image_gives_an_empty_prediction(network: IncrementalNetwork) -> None:
    assert predict(network, np.zeros((0, 16, 16, 3), np.uint8)).probabilities.shape == (0, 9)


def test_model_of_one_class_has_probability_1_and_entropy_0(
    tiny_network: NetworkConfig, tiny_batch: Batch
) -> None:
    alone = build_network(
        tiny_network,
        grow_head(initial_weights(tiny_network, 1), 1, torch.Generator().manual_seed(2)),
    )
    seen = predict(alone, tiny_batch.images[:2])
    assert (seen.probabilities == 1).all()
    assert (seen.entropy_fractions == 0).all()


def test_model_without_classes_is_refused(tiny_network: NetworkConfig, tiny_batch: Batch) -> None:
    with pytest.raises(ModelError, match="0 classes; allowed: 1 or more"):
        predict(IncrementalNetwork(tiny_network, 0), tiny_batch.images)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 16, 16, 3)),
        np.zeros((1, 16, 16, 2), np.uint8),
        np.zeros((16, 16), np.uint8),
        np.zeros((1, 3, 16, 16), np.uint8),
    ],
)
def test_arrays_that_are_not_images_are_refused(
    network: IncrementalNetwork, images: np.ndarray
) -> None:
    with pytest.raises(ModelError, match=r"allowed: uint8 of shape \[N, H, W\]"):
        predict(network, images)
