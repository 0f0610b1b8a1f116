"""Inference over many images in batches, without gradients: logits and features."""

from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from incremental.network import IncrementalNetwork


def logits_of(
    network: IncrementalNetwork,
    images: UInt8[Tensor, "N c H W"],
    batch_size: int = 256,
    bfloat16: bool = False,
) -> Float[Tensor, "N C"]:
    """Return the logits of 8-bit images, in evaluation mode, in float32, on the CPU."""
    return _outputs(network, "logits", images, batch_size, bfloat16)


def features_of(
    network: IncrementalNetwork,
    images: UInt8[Tensor, "N c H W"],
    batch_size: int = 256,
    bfloat16: bool = False,
) -> Float[Tensor, "N D"]:
    """Return the pooled features of 8-bit images, in evaluation mode, in float32, on the CPU."""
    return _outputs(network, "features", images, batch_size, bfloat16)


def _outputs(
    network: IncrementalNetwork,
    name: Literal["logits", "features"],
    images: UInt8[Tensor, "N c H W"],
    batch_size: int,
    bfloat16: bool,
) -> Tensor:
    network.eval()
    device = network.head.weight.device
    parts = []
    for part in torch.split(images, batch_size):
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            unit = part.to(device).to(torch.float32).div_(255)
            outputs = network(unit.contiguous(memory_format=torch.channels_last))
        parts.append(getattr(outputs, name).float())
    return torch.cat(parts).cpu()
