"""Possible defences of prototype gradients: clipping, noise, fewer bits, fewer values.

They are not options of the platform, whose ``outgoing`` changes weights and not these gradients.
"""

import torch
from torch import Tensor


def clip(gradients: Tensor, norm: float) -> Tensor:
    """Return gradients [P, G] clipped to this norm."""
    scale: Tensor = (norm / gradients.norm(dim=1, keepdim=True)).clamp_max(1)
    return gradients * scale


def noisy(gradients: Tensor, multiplier: float, generator: torch.Generator) -> Tensor:
    """Return gradients [P, G] with Gaussian noise of ``multiplier`` times their largest norm.

    The multiplier is that of the Gaussian mechanism with this norm as clipping norm.
    """
    scale: Tensor = multiplier * gradients.norm(dim=1).max()
    return gradients + scale * torch.randn(gradients.shape, generator=generator)


def half(gradients: Tensor) -> Tensor:
    """Return the gradients rounded to float16."""
    return gradients.half().float()


def eight_bits(gradients: Tensor) -> Tensor:
    """Return the gradients rounded to 8-bit integers with one scale per gradient."""
    scale = gradients.abs().amax(1, keepdim=True) / 127
    return (gradients / scale).round() * scale


def largest(gradients: Tensor, share: float) -> Tensor:
    """Return the gradients with all but the largest values set to 0."""
    count = max(1, round(share * gradients.shape[1]))
    places = gradients.abs().topk(count, dim=1).indices
    return torch.zeros_like(gradients).scatter(1, places, gradients.gather(1, places))
