import pytest
import torch

from incremental.head import grow_head
from incremental.inference import features_of, logits_of
from incremental.network import (
    IncrementalNetwork,
    NetworkConfig,
    build_network,
    initial_weights,
    weights_of,
)


def network_of(config: NetworkConfig, rows: int) -> IncrementalNetwork:
    return build_network(
        config, grow_head(initial_weights(config, 1), rows, torch.Generator().manual_seed(1))
    )


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(
        0, 256, (7, 3, 16, 16), generator=torch.Generator().manual_seed(2), dtype=torch.uint8
    )


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_many_images_give_what_each_gives_alone_in_evaluation_mode(
    tiny_network: NetworkConfig, images: torch.Tensor, batch_size: int
) -> None:
    network = network_of(tiny_network, 5)
    with torch.no_grad():
        outputs = [network.eval()(image[None].float() / 255) for image in images]
    network.train()
    torch.testing.assert_close(
        logits_of(network, images, batch_size), torch.cat([each.logits for each in outputs])
    )
    torch.testing.assert_close(
        features_of(network, images, batch_size), torch.cat([each.features for each in outputs])
    )


def test_inference_changes_no_weight_and_no_pixel(
    tiny_network: NetworkConfig, images: torch.Tensor
) -> None:
    network, pixels = network_of(tiny_network, 5).train(), images.clone()
    before = weights_of(network)
    logits_of(network, images)
    features_of(network, images)
    assert all(torch.equal(before[name], value) for name, value in weights_of(network).items())
    assert torch.equal(images, pixels)


def test_what_comes_out_may_take_part_in_training(
    tiny_network: NetworkConfig, images: torch.Tensor
) -> None:
    features = features_of(network_of(tiny_network, 5), images)
    assert not features.requires_grad
    scale = torch.ones((), requires_grad=True)
    (features * scale).sum().backward()
    assert scale.grad is not None


def test_inference_mode_ends_with_the_call(
    tiny_network: NetworkConfig, images: torch.Tensor
) -> None:
    logits_of(network_of(tiny_network, 5), images)
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_no_images_give_no_rows_of_the_right_width(
    tiny_network: NetworkConfig, images: torch.Tensor, rows: int
) -> None:
    network = network_of(tiny_network, rows)
    assert logits_of(network, images[:0]).shape == (0, rows)
    assert logits_of(network, images).shape == (7, rows)
    assert features_of(network, images[:0]).shape == (0, 8)


def test_half_precision_comes_near_and_comes_out_as_float32(
    tiny_network: NetworkConfig, images: torch.Tensor
) -> None:
    network = network_of(tiny_network, 5)
    half, full = logits_of(network, images, bfloat16=True), logits_of(network, images)
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.05)
