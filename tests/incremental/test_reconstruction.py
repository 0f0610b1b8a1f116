from typing import Any

import pydantic
import pytest
import torch

from incremental.head import grow_head
from incremental.network import (
    IncrementalNetwork,
    NetworkConfig,
    build_network,
    initial_weights,
    weights_of,
)
from incremental.reconstruction import (
    GradientEncoder,
    ReconstructionConfig,
    encoding_length,
    invert,
    perturb,
)
from physical.batch import Batch
from physical.transforms import to_tensor, to_unit

CLASSES = 9
SHAPE = (1, 16, 16)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_images(count: int, seed: int = 5) -> torch.Tensor:
    coarse = torch.rand(count, 1, 4, 4, generator=seeded(seed))
    return torch.nn.functional.interpolate(
        coarse, SHAPE[1:], mode="bicubic", align_corners=False
    ).clamp(0, 1)


@pytest.fixture(scope="module")
def encoder() -> GradientEncoder:
    return GradientEncoder(SHAPE, CLASSES, 2021)


@pytest.fixture
def network(tiny_network: NetworkConfig) -> IncrementalNetwork:
    return build_network(
        tiny_network, grow_head(initial_weights(tiny_network, 1), CLASSES, seeded(1))
    )


@pytest.mark.parametrize(
    ("shape", "flat"), [((3, 32, 32), 768), ((1, 28, 28), 588), ((1, 15, 18), 240)]
)
def test_the_public_network_has_the_size_of_the_published_one(
    shape: tuple[int, int, int], flat: int
) -> None:
    encoder = GradientEncoder(shape, 100, 1)
    assert encoder.linear.in_features == flat
    assert encoder(torch.zeros(2, *shape)).shape == (2, 100)
    if shape[0] == 3:
        assert sum(parameter.numel() for parameter in encoder.parameters()) == 85_036


def test_the_public_network_is_the_same_for_all_and_never_trained() -> None:
    state = torch.get_rng_state()
    first, second, other = (
        GradientEncoder(SHAPE, CLASSES, seed).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["linear.weight"], other["linear.weight"])
    assert all(float(value.abs().max()) <= 0.5 for value in first.values())
    assert not any(
        parameter.requires_grad for parameter in GradientEncoder(SHAPE, CLASSES, 1).parameters()
    )


def test_an_encoding_is_the_gradient_of_each_image_alone(encoder: GradientEncoder) -> None:
    images, rows = smooth_images(4), torch.tensor([0, 8, 3, 3])
    encoded = encoder.encode(images, rows)
    again = GradientEncoder(SHAPE, CLASSES, 2021).requires_grad_(True)
    for position in range(4):
        loss = torch.nn.functional.cross_entropy(
            again(images[position : position + 1]), rows[position : position + 1]
        )
        gradients = torch.autograd.grad(loss, list(again.parameters()))
        expected = torch.cat([gradient.flatten() for gradient in gradients])
        torch.testing.assert_close(encoded[position], expected, rtol=1e-4, atol=1e-6)


def test_the_label_of_every_class_can_be_read_from_the_gradient(encoder: GradientEncoder) -> None:
    rows = torch.arange(CLASSES)
    for seed in range(3):
        assert torch.equal(
            encoder.rows_of(encoder.encode(smooth_images(CLASSES, seed), rows)), rows
        )


def test_inversion_comes_near_most_smooth_images(encoder: GradientEncoder) -> None:
    images, rows = smooth_images(6), torch.tensor([0, 1, 2, 3, 4, 5])
    found = invert(encoder, encoder.encode(images, rows), SHAPE, ReconstructionConfig(), seeded(1))
    assert int((found.residual < 1e-2).sum()) >= 4
    assert torch.equal(found.rows, rows)
    assert found.images.shape == images.shape
    assert float(found.images.min()) >= 0
    assert float(found.images.max()) <= 1


def test_the_returned_residual_is_that_of_the_returned_images(encoder: GradientEncoder) -> None:
    images, rows = smooth_images(3), torch.tensor([2, 5, 7])
    gradients = encoder.encode(images, rows)
    config = ReconstructionConfig(invert_steps=20)
    found = invert(encoder, gradients, SHAPE, config, seeded(1))
    left = (encoder.encode(found.images, found.rows) - gradients).square().sum(
        1
    ) / gradients.square().sum(1)
    torch.testing.assert_close(found.residual, left, rtol=1e-4, atol=1e-7)
    assert found.steps == 20
    longer = invert(encoder, gradients, SHAPE, ReconstructionConfig(invert_steps=60), seeded(1))
    assert bool((longer.residual < found.residual).all())


def test_inversion_works_with_one_prototype_and_repeats_itself(encoder: GradientEncoder) -> None:
    gradients = encoder.encode(smooth_images(1), torch.tensor([4]))
    config = ReconstructionConfig(invert_steps=5)
    first, second, other = (
        invert(encoder, gradients, SHAPE, config, seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images, other.images)
    assert first.rows.tolist() == [4]


def test_inversion_stops_when_all_are_near_enough(encoder: GradientEncoder) -> None:
    gradients = encoder.encode(smooth_images(2), torch.tensor([4, 1]))
    found = invert(encoder, gradients, SHAPE, ReconstructionConfig(stop_below=10.0), seeded(1))
    assert found.steps == 1
    assert not found.images.requires_grad


def test_a_gradient_of_zeros_leaves_finite_images(encoder: GradientEncoder) -> None:
    gradients = torch.zeros_like(encoder.encode(smooth_images(1), torch.tensor([0])))
    found = invert(encoder, gradients, SHAPE, ReconstructionConfig(invert_steps=3), seeded(1))
    assert bool(torch.isfinite(found.images).all())


def test_perturbing_makes_a_trained_model_surer_of_the_class(
    network: IncrementalNetwork, tiny_batch: Batch
) -> None:
    images, rows = to_unit(to_tensor(tiny_batch.images)), torch.from_numpy(tiny_batch.labels)
    target = torch.nn.functional.one_hot(rows, CLASSES).float()
    optimiser = torch.optim.SGD(network.parameters(), lr=2.0)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(
            network(images).logits, target
        ).backward()
        optimiser.step()
    optimiser.zero_grad()
    images, rows, before = images[::20], rows[::20], weights_of(network)
    moved = perturb(network, images, rows, ReconstructionConfig())
    with torch.no_grad():
        probabilities = [
            torch.sigmoid(network.eval()(each).logits).gather(1, rows[:, None])
            for each in (images, moved)
        ]
    assert bool((probabilities[1] > probabilities[0]).all())
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    assert not moved.requires_grad
    assert all(torch.equal(before[name], value) for name, value in weights_of(network).items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(images, to_unit(to_tensor(tiny_batch.images))[::20])


def test_one_step_of_perturbing_descends_the_mean_binary_cross_entropy(
    network: IncrementalNetwork,
) -> None:
    images = 0.25 + 0.5 * torch.rand(2, 3, 16, 16, generator=seeded(2))
    rows = torch.tensor([1, 6])
    moved = perturb(network, images, rows, ReconstructionConfig(perturb_steps=1, perturb_rate=0.2))
    for position, row in enumerate(rows):
        image = images[position : position + 1].clone().requires_grad_()
        probabilities = torch.sigmoid(network(image).logits[0])
        loss = (
            sum(
                -(p.log() if index == row else (1 - p).log())
                for index, p in enumerate(probabilities)
            )
            / CLASSES
        )
        (gradient,) = torch.autograd.grad(loss, image)
        expected = images[position] - 0.2 * (gradient[0] + 1e-5 * images[position])
        torch.testing.assert_close(moved[position], expected)


def test_no_step_of_perturbing_changes_nothing(network: IncrementalNetwork) -> None:
    images = torch.rand(2, 3, 16, 16, generator=seeded(2))
    assert torch.equal(
        perturb(network, images, torch.tensor([0, 1]), ReconstructionConfig(perturb_steps=0)),
        images,
    )


@pytest.mark.parametrize("wrong", [{"perturb_steps": -1}, {"invert_steps": 0}])
def test_a_number_of_steps_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError, match="allowed: 0 or more and 1 or more"):
        ReconstructionConfig(**wrong)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 17, 30)])
def test_the_length_of_an_encoding_is_the_public_networks_size(shape: tuple[int, int, int]) -> None:
    assert encoding_length(shape, 7) == sum(
        each.numel() for each in GradientEncoder(shape, 7, 1).parameters()
    )
