"""Seeded augmentation of image batches: random crop, horizontal flip, brightness.

Normalisation belongs to the network (``incremental.network``), so no caller can apply another.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AugmentationConfig:
    """How training images are augmented.

    Args:
        crop_padding_pixels: Width of the zero border around an image before a crop of its
            original size is taken; 0 switches it off [px].
        horizontal_flip: Mirror half of the images. Not allowed where classes distinguish left
            and right (``ExperimentConfig`` checks that).
        brightness: Each image is multiplied by a factor from [1 - brightness, 1 + brightness].
    """

    crop_padding_pixels: int = 4
    horizontal_flip: bool = False
    brightness: float = 63 / 255

    @property
    def is_off(self) -> bool:
        """Whether images stay unchanged."""
        return not (self.crop_padding_pixels or self.horizontal_flip or self.brightness)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.crop_padding_pixels <= 16:
            raise ValueError(f"crop_padding_pixels is {self.crop_padding_pixels}; allowed: 0 to 16")
        if not 0 <= self.brightness < 1:
            raise ValueError(f"brightness is {self.brightness}; allowed: 0 to below 1")


def to_tensor(images: NDArray[np.uint8]) -> UInt8[Tensor, "B C H W"]:
    """Return [N, H, W, C] arrays as a [N, C, H, W] tensor of 8-bit pixels."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def to_unit(images: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Return 8-bit pixels as floats in [0, 1]."""
    return images.to(torch.float32).div_(255)


def augment(
    images: Float[Tensor, "B C H W"], config: AugmentationConfig, generator: torch.Generator
) -> Float[Tensor, "B C H W"]:
    """Apply padded random crop, mirroring and brightness, drawn separately for each image.

    Args:
        images: Values in [0, 1].
        config: Which augmentations are applied.
        generator: Source of randomness.

    Returns:
        New images of the same shape, values in [0, 1].
    """
    if config.crop_padding_pixels:
        images = _random_crop(images, config.crop_padding_pixels, generator)
    if config.horizontal_flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    if config.brightness:
        factor = 1 + config.brightness * (
            2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1
        )
        images = (images * factor).clamp_(0, 1)
    return images


def _random_crop(
    images: Float[Tensor, "B C H W"], padding: int, generator: torch.Generator
) -> Float[Tensor, "B C H W"]:
    count, channels, height, width = images.shape
    padded = images.new_zeros(count, channels, height + 2 * padding, width + 2 * padding)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]  # [B, 1, H, 1]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]  # [B, 1, 1, W]
    return padded[
        torch.arange(count)[:, None, None, None],
        torch.arange(channels)[None, :, None, None],
        rows,
        columns,
    ]
