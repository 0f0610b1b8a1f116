from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from physical.transforms import AugmentationConfig, augment, to_tensor, to_unit

OFF: dict[str, Any] = {"crop_padding_pixels": 0, "brightness": 0.0}


def made(count: int = 6, channels: int = 3, height: int = 5, width: int = 7) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tensor_has_channels_first_and_the_same_bytes(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, channels), np.uint8)
    tensor = to_tensor(images)
    assert tensor.dtype == torch.uint8
    assert tensor.is_contiguous()
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), images)


def test_unit_pixels_reach_from_0_to_1_and_leave_the_bytes_alone() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    assert to_unit(pixels).flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert pixels.flatten().tolist() == [0, 51, 255]


def test_no_augmentation_changes_nothing() -> None:
    assert torch.equal(augment(made(), AugmentationConfig(**OFF), seeded()), made())


@given(
    padding=st.integers(0, 16),
    flip=st.booleans(),
    brightness=st.floats(0, 0.99),
    count=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**31),
)
def test_augmented_images_keep_shape_and_range(
    padding: int, flip: bool, brightness: float, count: int, channels: int, seed: int
) -> None:
    images = made(count, channels)
    varied = augment(images, AugmentationConfig(padding, flip, brightness), seeded(seed))
    assert varied.shape == images.shape
    assert float(varied.min()) >= 0
    assert float(varied.max()) <= 1
    assert torch.equal(images, made(count, channels))


def test_a_crop_is_a_window_of_its_own_padded_image() -> None:
    images, padding = made(20), 2
    crops = augment(images, AugmentationConfig(padding, False, 0.0), seeded())
    padded = torch.nn.functional.pad(images, [padding] * 4)
    places = set()
    for image, crop in zip(padded, crops, strict=True):
        found = [
            (top, left)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            if torch.equal(image[:, top : top + 5, left : left + 7], crop)
        ]
        assert found
        places.add(found[0])
    assert len(places) > 5  # each image has its own draw


def test_a_flip_mirrors_about_half_of_the_images_from_left_to_right() -> None:
    images = made(400)
    flipped = augment(images, AugmentationConfig(horizontal_flip=True, **OFF), seeded())
    mirrored = torch.tensor(
        [torch.equal(after, before.flip(2)) for before, after in zip(images, flipped, strict=True)]
    )
    kept = torch.tensor(
        [torch.equal(after, before) for before, after in zip(images, flipped, strict=True)]
    )
    assert bool((mirrored ^ kept).all())
    assert 150 < int(mirrored.sum()) < 250


def test_brightness_is_one_factor_per_image_within_its_limits() -> None:
    images = made(200) * 0.5  # no factor below 2 clips
    factors = augment(images, AugmentationConfig(0, False, 0.25), seeded()) / images
    each = factors.flatten(1)
    assert torch.allclose(each, each[:, :1].expand_as(each))
    assert float(each.min()) >= 0.75 - 1e-6
    assert float(each.max()) <= 1.25 + 1e-6
    assert float(each[:, 0].std()) > 0.1


def test_the_same_seed_gives_the_same_images_and_no_global_draw_is_used() -> None:
    config = AugmentationConfig(2, True, 0.2)
    before = torch.get_rng_state()
    assert torch.equal(augment(made(), config, seeded(3)), augment(made(), config, seeded(3)))
    assert not torch.equal(augment(made(), config, seeded(3)), augment(made(), config, seeded(4)))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop_padding_pixels": -1},
        {"crop_padding_pixels": 17},
        {"brightness": 1.0},
        {"brightness": -0.1},
    ],
)
def test_a_value_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError, match="allowed: 0 to"):
        AugmentationConfig(**wrong)


def test_a_misspelt_key_is_refused() -> None:
    wrong: dict[str, Any] = {"horizontal_flop": True}
    with pytest.raises(pydantic.ValidationError, match="horizontal_flop"):
        AugmentationConfig(**wrong)
