"""What could be done to prototype gradients before they leave.

Clipping, noise, fewer bits, fewer values. Not options of the platform.

The platform's own ``outgoing`` changes the weights of an update and not these gradients; here is
what it would buy if it did.
"""

import torch
from torch import Tensor


def clip(gradients: Tensor, norm: float) -> Tensor:
    """Return gradients [P, G] whose norm is at most this."""
    scale: Tensor = (norm / gradients.norm(dim=1, keepdim=True)).clamp_max(1)
    return gradients * scale


def noisy(gradients: Tensor, multiplier: float, generator: torch.Generator) -> Tensor:
    """Return gradients [P.

    G], each coordinate with Gaussian noise of ``multiplier`` times the largest norm among them.

    The multiplier is that of the Gaussian mechanism with the clipping norm at that norm.
    """
    scale: Tensor = multiplier * gradients.norm(dim=1).max()
    return gradients + scale * torch.randn(gradients.shape, generator=generator)


def half(gradients: Tensor) -> Tensor:
    """Return the gradients as float16 carries them."""
    return gradients.half().float()


def eight_bits(gradients: Tensor) -> Tensor:
    """Return the gradients as 8-bit integers and one scale for each carry them."""
    scale = gradients.abs().amax(1, keepdim=True) / 127
    return (gradients / scale).round() * scale


def largest(gradients: Tensor, share: float) -> Tensor:
    """Return the gradients with all but their largest values set to 0."""
    count = max(1, round(share * gradients.shape[1]))
    places = gradients.abs().topk(count, dim=1).indices
    return torch.zeros_like(gradients).scatter(1, places, gradients.gather(1, places))
