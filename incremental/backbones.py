"""Backbones: feature extractors from images to maps (ResNet, LeNet).

The stem is 3x3 with stride 1 and without max-pool, so that the last map of a 28 or 32 px image is
4x4, large enough for an attention map (a stock ResNet-18 leaves 1x1). No operation is in place, as
per-sample gradients for differential privacy require.
"""

from collections.abc import Callable
from math import gcd
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from incremental.convolution import Convolution, FoldedConvolution, Shortcut

Norm = Literal["batch", "group"]


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """Return a normalisation layer; ``group`` has groups of 8 channels where these divide."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(gcd(channels, max(1, channels // 8)), channels)


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions (He et al., CVPR 2016, figure 5 left)."""

    def __init__(self, channels_in: int, channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1: nn.Module = Convolution(channels_in, channels, stride)
        self.norm1 = normalisation(norm, channels)
        self.conv2: nn.Module = Convolution(channels, channels)
        self.norm2 = normalisation(norm, channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                Shortcut(channels_in, channels, stride), normalisation(norm, channels)
            )

    def forward(self, maps: Float[Tensor, "B D H W"]) -> Float[Tensor, "B E h w"]:
        """Return the maps after the block."""
        inner = torch.relu(self.norm1(self.conv1(maps)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(maps))


class FoldedBlock(nn.Module):
    """Basic block for inference, its batch normalisations folded into the convolutions.

    Args:
        block: Block with batch normalisation, in evaluation mode; is not changed.
    """

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.first = _folded(block.conv1, block.norm1)
        self.second = _folded(block.conv2, block.norm2)
        shortcut = block.shortcut
        if isinstance(shortcut, nn.Sequential):
            shortcut = _folded(shortcut[0], shortcut[1], rectify=False)
        self.shortcut = shortcut

    def forward(self, maps: Float[Tensor, "B D H W"]) -> Float[Tensor, "B E h w"]:
        """Return the maps after the block; may overwrite the input."""
        inner = self.first(maps)
        return self.second(inner, self.shortcut(maps))  # type: ignore[no-any-return]  # modules return Any


def _folded(convolution: nn.Module, norm: nn.Module, rectify: bool = True) -> FoldedConvolution:
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return FoldedConvolution(convolution, norm, rectify)


def _stage(stage: int, blocks: int, width: int, norm: Norm) -> nn.Sequential:
    channels = width * 2**stage
    first = BasicBlock(channels // 2 if stage else width, channels, 2 if stage else 1, norm)
    return nn.Sequential(
        first, *(BasicBlock(channels, channels, 1, norm) for _ in range(blocks - 1))
    )


class ResNet(nn.Module):
    """A residual network of four stages without a classifier.

    Args:
        blocks: Blocks in each of the four stages.
        width: Channels of the first stage; each later stage doubles the channels and halves the
            side length.
        channels: Channels of the images.
        norm: Name of the normalisation.
    """

    def __init__(
        self, blocks: tuple[int, int, int, int], width: int, channels: int, norm: Norm
    ) -> None:
        super().__init__()
        self.num_features = width * 8
        self.norm: Norm = norm
        self.stem: nn.Module = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            normalisation(norm, width),
            nn.ReLU(),
        )
        stages = [_stage(stage, count, width, norm) for stage, count in enumerate(blocks)]
        self.lower_stages = nn.Sequential(*stages[:3])
        self.upper_stage = stages[3]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015, eq. 15
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def fold(self) -> None:
        """Fold batch normalisations into convolutions, for inference; group ones stay."""
        if self.norm == "batch":
            assert isinstance(self.stem, nn.Sequential)
            self.stem = _folded(self.stem[0], self.stem[1])
            for stage in (*self.lower_stages, self.upper_stage):
                for place, block in enumerate(stage):
                    stage[place] = FoldedBlock(block)

    def lower(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E g g"]:
        """Return the maps after the third stage; a 32 px image gives 8x8."""
        return self.lower_stages(self.stem(images))  # type: ignore[no-any-return]  # modules return Any

    def upper(self, maps: Float[Tensor, "B E g g"]) -> Float[Tensor, "B D h w"]:
        """Return the last maps; a 32 px image gives 4x4."""
        return self.upper_stage(maps)  # type: ignore[no-any-return]  # modules return Any


class LeNet(nn.Module):
    """Small network of two 5x5 convolutions, for tests and Fashion-MNIST."""

    def __init__(self, width: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.num_features = width * 2
        self.norm: Norm = norm
        self.first = nn.Sequential(
            nn.Conv2d(channels, width, 5, 2, padding=2), normalisation(norm, width), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Conv2d(width, width * 2, 5, 2, padding=2),
            normalisation(norm, width * 2),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )

    def fold(self) -> None:
        """Fold batch normalisations into convolutions, for inference; group ones stay."""
        if self.norm == "batch":
            self.first = nn.Sequential(_folded(self.first[0], self.first[1]), *self.first[3:])
            self.second = nn.Sequential(_folded(self.second[0], self.second[1]), *self.second[3:])

    def lower(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E g g"]:
        """Return the maps after the first convolution; a 32 px image gives 16x16."""
        return self.first(images)  # type: ignore[no-any-return]  # modules return Any

    def upper(self, maps: Float[Tensor, "B E g g"]) -> Float[Tensor, "B D h w"]:
        """Return the last maps; a 32 px image gives 4x4."""
        return self.second(maps)  # type: ignore[no-any-return]  # modules return Any


BACKBONES: dict[str, Callable[[int, int, Norm], ResNet | LeNet]] = {
    "resnet18": lambda width, channels, norm: ResNet((2, 2, 2, 2), width, channels, norm),
    "resnet10": lambda width, channels, norm: ResNet((1, 1, 1, 1), width, channels, norm),
    "lenet": LeNet,
}
