"""Incremental network: input normalisation, backbone, pooling and a growing linear head."""

from dataclasses import dataclass
from typing import Literal

import pydantic.dataclasses
import torch
from jaxtyping import Float
from pydantic import ConfigDict
from torch import Tensor, nn

from incremental.backbones import BACKBONES, Norm
from incremental.device import CPU, default_device
from incremental.head import Weights, num_rows


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class NetworkConfig:
    """Architecture of a network; saved with its weights.

    Args:
        backbone: Name in ``BACKBONES``.
        width: Channels of the backbone's first stage (ResNet-18 of the papers: 64).
        norm: ``batch`` (papers) or ``group`` (no statistics over patients; needed for differential
            privacy).
        image_size: Side length to which images are resized [px].
        channels: 1 or 3; grey images are repeated for 3.
        mean: Subtracted from pixels in [0, 1], one per channel or one for all.
        std: Divides the difference, one per channel or one for all.
    """

    backbone: Literal["resnet18", "resnet10", "lenet"] = "resnet18"
    width: int = 64
    norm: Norm = "batch"
    image_size: int = 32
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 2 <= self.width <= 1024:
            raise ValueError(f"width is {self.width}; allowed: 2 to 1024")
        if not 16 <= self.image_size <= 256:
            raise ValueError(f"image_size is {self.image_size}; allowed: 16 to 256 px")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} values; allowed: 1 or one per channel "
                    f"({self.channels})"
                )
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; allowed: above 0")


@dataclass(frozen=True)
class Outputs:
    """Outputs of one forward pass.

    Args:
        logits: Shape [B, C].
        features: Pooled maps, shape [B, D].
        maps: Last maps of the backbone, shape [B, D, h, w].
        middle_maps: Maps of the stage before, shape [B, E, g, g].
    """

    logits: Float[Tensor, "B C"]
    features: Float[Tensor, "B D"]
    maps: Float[Tensor, "B D h w"]
    middle_maps: Float[Tensor, "B E g g"]


class IncrementalNetwork(nn.Module):
    """Backbone, global average pooling and a linear head with one row per class.

    Args:
        config: Architecture.
        rows: Number of classes, 0 or more.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: NetworkConfig, rows: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = BACKBONES[config.backbone](config.width, config.channels, config.norm)
        # Torch warns of a layer with 0 rows, so it is made with one row and emptied.
        self.head = nn.Linear(self.backbone.num_features, max(rows, 1))
        if rows == 0:
            self.head.out_features = 0
            self.head.weight = nn.Parameter(self.head.weight.detach()[:0])
            self.head.bias = nn.Parameter(self.head.bias.detach()[:0])
        self.register_buffer("mean", torch.tensor(config.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "B c H W"]) -> Outputs:
        """Return logits, features and maps.

        Args:
            images: Values in [0, 1]; any side length; 1 channel or the network's.
        """
        return self.forward_upper(self.backbone.lower(self.normalise(images)))

    def forward_upper(self, middle_maps: Float[Tensor, "B E g g"]) -> Outputs:
        """Return the outputs from the maps of the last but one stage."""
        maps = self.backbone.upper(middle_maps)
        features = maps.mean((2, 3))
        return Outputs(self.head(features), features, maps, middle_maps)

    def normalise(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B C h w"]:
        """Return images resized, centred, scaled and repeated over the channels."""
        return ((resize(images, self.config.image_size) - self.mean) / self.std).expand(
            -1, self.config.channels, -1, -1
        )


def resize(images: Float[Tensor, "B c H W"], side: int) -> Float[Tensor, "B c s s"]:
    """Return images of another side length [px]; when shrinking, pixels are averaged."""
    if images.shape[2:] == (side, side):
        return images
    return nn.functional.interpolate(
        images,
        (side, side),
        mode="bilinear",
        align_corners=False,
        antialias=max(images.shape[2:]) > side,
    )


def initial_weights(config: NetworkConfig, seed: int) -> Weights:
    """Return the weights of a network without classes, drawn from a seed."""
    # Layers draw from torch's global generator: it is seeded here and restored afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return weights_of(IncrementalNetwork(config, rows=0))


def weights_of(network: IncrementalNetwork) -> Weights:
    """Return a copy of a network's weights, buffers included."""
    return {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }


def build_network(config: NetworkConfig, weights: Weights) -> IncrementalNetwork:
    """Return a network with a copy of these weights and as many rows."""
    with torch.random.fork_rng(devices=[]):
        network = IncrementalNetwork(config, num_rows(weights))
    network.load_state_dict(weights)
    return network


def freeze(network: IncrementalNetwork) -> IncrementalNetwork:
    """Turn a network, in place, into one for inference alone, and return it.

    It is in evaluation mode, without gradients, in channels last format, with batch normalisation
    folded into the convolutions, which changes the last digits of its outputs.
    """
    network.eval().backbone.fold()
    # Again in evaluation mode, for the modules that folding made.
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def frozen_network(
    config: NetworkConfig, weights: Weights, device: torch.device = CPU
) -> IncrementalNetwork:
    """Return a frozen network with a copy of these weights, on a device."""
    with default_device(device):
        return freeze(build_network(config, weights))
