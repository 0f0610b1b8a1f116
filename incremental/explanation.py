"""Grad-CAM overlays for people, by the package pytorch-grad-cam.

Source: Selvaraju et al., Grad-CAM, ICCV 2017, eq. 1 and 2. Losses use ``incremental.attention``,
whose maps are not scaled.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from incremental.backbones import ResNet
from incremental.network import IncrementalNetwork


def explain(
    network: IncrementalNetwork, images: Float[Tensor, "B c H W"], rows: Sequence[int]
) -> NDArray[np.float32]:
    """Return Grad-CAM heat maps: where on each image the evidence for a class lies.

    Args:
        network: Put into evaluation mode; gradients of its parameters are cleared.
        images: Values in [0, 1].
        rows: The class of each image as a row of the head.

    Returns:
        Values in [0, 1], scaled for each image, shape [B, H, W]; all 0 without evidence.
    """
    from pytorch_grad_cam import GradCAM  # takes seconds
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    backbone = network.backbone
    layer = backbone.upper_stage if isinstance(backbone, ResNet) else backbone.second
    with GradCAM(model=_Logits(network).eval(), target_layers=[layer]) as package:
        maps = package(input_tensor=images, targets=[ClassifierOutputTarget(row) for row in rows])
    network.zero_grad(set_to_none=True)
    return np.clip(np.nan_to_num(np.asarray(maps, np.float32)), 0, 1)


class _Logits(nn.Module):
    """A network as the package needs it, with logits as its only output."""

    def __init__(self, network: IncrementalNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B C"]:
        return self.network(images).logits  # type: ignore[no-any-return]  # modules return Any
