"""Grad-CAM attention maps of a network, for use in losses.

Source: Selvaraju et al., Grad-CAM, ICCV 2017, eq. 1 and 2. With global average pooling and a linear
head, the gradient of a class score with respect to the last maps is the head's row divided by the
number of positions, so these maps need no backward pass (CAM, Zhou et al., CVPR 2016). For earlier
maps autograd computes it. Both agree with the package pytorch-grad-cam (tests).
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
    """Return each image's Grad-CAM for one class, not scaled.

    Gradients flow to the maps and, for ``last``, to the head's row. For ``middle`` the channel
    weights are constants, so that no second derivative is needed.

    Args:
        network: The network that made ``outputs``.
        outputs: Its outputs for the images.
        rows: The class of each image as a row of the head.
        layer: ``last``: the last maps; ``middle``: those of the stage before.
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
    # The upper part runs again in evaluation mode: batch statistics would mix other images' scores
    # into an image's gradient, and a frozen teacher's outputs have no graph.
    training = network.training
    network.eval()
    with torch.enable_grad():
        maps = outputs.middle_maps.detach().requires_grad_()
        scores = network.forward_upper(maps).logits.gather(1, rows[:, None]).sum()
        (gradient,) = torch.autograd.grad(scores, maps)
    network.train(training)
    return gradient
