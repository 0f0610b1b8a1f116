"""Grad-CAM: where a network looks when it names a class.

Source: Selvaraju et al., Grad-CAM, ICCV 2017, eq. 1 and 2. With global average pooling and a linear
head the gradient of a class score with respect to the last maps is the head's row divided by the
number of positions, so the map has a closed form (CAM, Zhou et al., CVPR 2016) that needs no
backward pass; elsewhere autograd gives it. Both agree with the package pytorch-grad-cam (tests).
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from incremental.network import IncrementalNetwork, Outputs

AttentionLayer = Literal["last", "middle"]


def attention(
    network: IncrementalNetwork,
    outputs: Outputs,
    rows: Int[Tensor, " B"],
    layer: AttentionLayer = "last",
) -> Float[Tensor, "B h w"]:
    """Return each image's Grad-CAM for one class, before any scaling.

    Gradient flows to the maps (and, in closed form, to the head's row); the channel weights that
    autograd computes are constants, so the map is of first order.

    Args:
        network: The network that made ``outputs``.
        outputs: Its outputs for the images.
        rows: The class of each image as a row of the head.
        layer: ``last``: closed form; ``middle``: the stage before, by autograd.
    """
    if layer == "last":
        weights = network.head.weight[rows] / (outputs.maps.shape[2] * outputs.maps.shape[3])
        return torch.relu(
            torch.einsum("bdhw,bd->bhw", outputs.maps, weights.to(outputs.maps.dtype))
        )
    weights = _gradient_of_scores(network, outputs, rows).mean((2, 3))  # eq. 1
    return torch.relu(torch.einsum("bdhw,bd->bhw", outputs.middle_maps, weights))  # eq. 2


def _gradient_of_scores(
    network: IncrementalNetwork, outputs: Outputs, rows: Int[Tensor, " B"]
) -> Float[Tensor, "B E g g"]:
    # The upper half runs again, in evaluation mode: batch statistics would mix the other images'
    # scores into an image's gradient, and a frozen teacher left no graph to go back through.
    training = network.training
    network.eval()
    with torch.enable_grad():
        maps = outputs.middle_maps.detach().requires_grad_()
        scores = network.forward_upper(maps).logits.gather(1, rows[:, None]).sum()
        (gradient,) = torch.autograd.grad(scores, maps)
    network.train(training)
    return gradient
