from dataclasses import replace
from typing import Any

import pydantic
import pytest
import torch

from incremental.backbones import BACKBONES
from incremental.head import grow_head, num_rows
from incremental.network import (
    IncrementalNetwork,
    NetworkConfig,
    build_network,
    freeze,
    initial_weights,
    resize,
    weights_of,
)


def images_of(count: int = 4, side: int = 16, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network(tiny_network: NetworkConfig) -> IncrementalNetwork:
    weights = grow_head(initial_weights(tiny_network, 1), 5, torch.Generator().manual_seed(1))
    return build_network(tiny_network, weights).eval()


def test_a_new_network_has_no_class(tiny_network: NetworkConfig) -> None:
    weights = initial_weights(tiny_network, 1)
    assert num_rows(weights) == 0
    assert build_network(tiny_network, weights).eval()(images_of()).logits.shape == (4, 0)


def test_a_network_is_drawn_from_its_seed_alone(tiny_network: NetworkConfig) -> None:
    state = torch.get_rng_state()
    first, second, other = (initial_weights(tiny_network, seed) for seed in (1, 1, 2))
    build_network(tiny_network, first)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_features_are_the_mean_of_the_maps_and_logits_their_linear_image(
    network: IncrementalNetwork,
) -> None:
    outputs = network(images_of())
    torch.testing.assert_close(outputs.features, outputs.maps.mean((2, 3)))
    torch.testing.assert_close(
        outputs.logits, outputs.features @ network.head.weight.T + network.head.bias
    )
    torch.testing.assert_close(network.forward_upper(outputs.middle_maps).logits, outputs.logits)


def test_growing_the_head_keeps_the_old_logits(network: IncrementalNetwork) -> None:
    grown = build_network(
        network.config, grow_head(weights_of(network), 3, torch.Generator().manual_seed(2))
    ).eval()
    torch.testing.assert_close(grown(images_of()).logits[:, :5], network(images_of()).logits)


def test_a_grey_image_is_repeated_over_the_channels(network: IncrementalNetwork) -> None:
    grey = images_of(channels=1)
    torch.testing.assert_close(network(grey).logits, network(grey.expand(-1, 3, -1, -1)).logits)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.25,)), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))])
def test_images_are_centred_and_scaled_per_channel(
    tiny_network: NetworkConfig, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    network = IncrementalNetwork(replace(tiny_network, mean=mean, std=std), 1)
    seen = network.normalise(images_of())
    for channel in range(3):
        expected = (images_of()[:, channel] - mean[channel % len(mean)]) / std[channel % len(std)]
        torch.testing.assert_close(seen[:, channel], expected)


@pytest.mark.parametrize("side", [14, 28, 40])
def test_images_of_any_size_are_resized(network: IncrementalNetwork, side: int) -> None:
    assert network.normalise(images_of(side=side)).shape == (4, 3, 16, 16)


def test_resizing_keeps_a_plain_image_plain(network: IncrementalNetwork) -> None:
    plain = torch.full((1, 3, 28, 28), 0.75)
    torch.testing.assert_close(network.normalise(plain), torch.full((1, 3, 16, 16), 0.5))


def test_weights_are_a_copy_with_buffers_and_without_normalisation(
    network: IncrementalNetwork,
) -> None:
    weights = weights_of(network)
    assert weights["backbone.first.1.num_batches_tracked"].dtype == torch.int64
    assert not {"mean", "std"} & weights.keys()
    before = weights["head.bias"].clone()
    with torch.no_grad():
        network.head.bias.add_(1)
    assert torch.equal(weights["head.bias"], before)
    assert not any(value.requires_grad for value in weights.values())


def test_a_built_network_holds_a_copy(
    tiny_network: NetworkConfig, network: IncrementalNetwork
) -> None:
    weights = weights_of(network)
    built = build_network(tiny_network, weights)
    with torch.no_grad():
        for value in built.state_dict().values():
            value.add_(1)
    assert all(torch.equal(weights[name], value) for name, value in weights_of(network).items())


def test_weights_survive_the_way_into_a_network_and_out_again_in_any_memory_format(
    network: IncrementalNetwork,
) -> None:
    weights = weights_of(network)
    through = build_network(network.config, weights).to(memory_format=torch.channels_last)
    for name, value in weights_of(through).items():
        assert torch.equal(value, weights[name])
        assert value.is_contiguous()


def test_a_teacher_is_in_evaluation_mode_and_has_no_gradients(network: IncrementalNetwork) -> None:
    teacher = freeze(network.train())
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    before = weights_of(teacher)
    teacher(images_of())
    assert all(torch.equal(before[name], value) for name, value in weights_of(teacher).items())


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_every_backbone_becomes_a_network(backbone: Any, norm: Any) -> None:
    config = NetworkConfig(backbone=backbone, width=4, norm=norm, image_size=16)
    outputs = build_network(
        config, grow_head(initial_weights(config, 1), 2, torch.Generator().manual_seed(1))
    )(images_of())
    assert outputs.logits.shape == (4, 2)
    assert bool(torch.isfinite(outputs.logits).all())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 1}, "width is 1"),
        ({"image_size": 8}, "image_size is 8"),
        ({"mean": (0.1, 0.2)}, "mean has 2 values"),
        ({"std": (0.0,)}, "allowed: above 0"),
        ({"backbone": "resnet19"}, "resnet18"),
        ({"channels": 2}, "channels"),
        ({"widht": 4}, "widht"),
    ],
)
def test_an_impossible_network_configuration_is_refused(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        NetworkConfig(**wrong)


def test_a_network_can_be_built_for_grey_images(tiny_network: NetworkConfig) -> None:
    grey = replace(tiny_network, channels=1)
    assert IncrementalNetwork(grey, 2)(images_of(channels=1)).logits.shape == (4, 2)


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_frozen_network_has_the_same_outputs_and_no_batch_normalisation(
    backbone: Any, norm: Any
) -> None:
    config = NetworkConfig(backbone=backbone, width=8, image_size=16, norm=norm)
    network = build_network(
        config, grow_head(initial_weights(config, 1), 5, torch.Generator().manual_seed(1))
    )
    with torch.no_grad():
        for _ in range(3):
            network.train()(images_of(8))  # running statistics that are not 0 and 1
    network.eval()
    before = network(images_of())
    after = freeze(network)(images_of())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    for name in ("logits", "maps", "middle_maps"):
        torch.testing.assert_close(
            getattr(after, name), getattr(before, name), rtol=1e-4, atol=1e-5
        )


def test_large_images_are_smoothed_before_they_shrink_so_that_no_pixel_is_skipped() -> None:
    image = torch.zeros(1, 1, 64, 64)
    image[..., ::4] = 1.0  # plain bilinear interpolation sees these lines here and there only
    small = resize(image, 16)
    torch.testing.assert_close(
        small[..., 1:-1], torch.full((1, 1, 16, 14), 0.25), atol=0.02, rtol=0
    )
    assert resize(image, 64) is image
    torch.testing.assert_close(
        resize(image, 96),
        torch.nn.functional.interpolate(image, (96, 96), mode="bilinear", align_corners=False),
    )
