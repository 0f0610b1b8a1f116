"""Inference over many images without gradients: logits and features."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from incremental.network import IncrementalNetwork, Outputs


def _forward(
    network: IncrementalNetwork, images: UInt8[Tensor, "N c H W"], batch_size: int, bfloat16: bool
) -> Iterable[Outputs]:
    network.eval()
    device = network.head.weight.device
    for part in torch.split(images, batch_size):
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            yield network(
                part.to(device)
                .to(torch.float32)
                .div_(255)
                .contiguous(memory_format=torch.channels_last)
            )


def logits_of(
    network: IncrementalNetwork,
    images: UInt8[Tensor, "N c H W"],
    batch_size: int = 256,
    bfloat16: bool = False,
) -> Float[Tensor, "N C"]:
    """Return the logits of 8-bit images, in evaluation mode, in float32, on the CPU."""
    parts = [outputs.logits.float() for outputs in _forward(network, images, batch_size, bfloat16)]
    return torch.cat(parts).cpu()


def features_of(
    network: IncrementalNetwork,
    images: UInt8[Tensor, "N c H W"],
    batch_size: int = 256,
    bfloat16: bool = False,
) -> Float[Tensor, "N D"]:
    """Return the pooled features of 8-bit images, in evaluation mode, in float32, on the CPU."""
    parts = [
        outputs.features.float() for outputs in _forward(network, images, batch_size, bfloat16)
    ]
    return torch.cat(parts).cpu()
