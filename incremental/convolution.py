"""A 3x3 convolution that is quick on small maps too. Knows no network.

oneDNN's bfloat16 kernels fill the matrix units with the pixels of one row of the map. On the last stage of our networks a row has four
pixels, and they run at a tenth of the speed of a matrix product (``benchmarks/convolution.py``). There, each position's neighbourhood is
copied out and the convolution is one product of matrices; everywhere else it is the library's.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

MOST_POSITIONS = 16  # of the output map; with more, copying neighbourhoods costs more than it saves


class Convolution(nn.Conv2d):
    """A 3x3 convolution with padding 1.

    Args:
        channels_in: Of the maps that come.
        channels: Of the maps that go.
        stride: Step between positions [px].
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__(channels_in, channels, 3, stride, padding=1, bias=False)

    def forward(self, maps: Float[Tensor, "B D H W"]) -> Float[Tensor, "B E h w"]:
        """Return the convolved maps; the same either way, but for the order in which products are summed up."""
        step = self.stride[0]
        height, width = ((side - 1) // step + 1 for side in maps.shape[2:])
        if height * width > MOST_POSITIONS or maps.device.type != "cpu" or not _in_bfloat16():
            return super().forward(maps)
        rows = functional.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # [B, H + 2, W + 2, D]
        shifted = [
            rows[:, top : top + step * (height - 1) + 1 : step, left : left + step * (width - 1) + 1 : step]
            for top in range(3)
            for left in range(3)
        ]
        neighbourhoods = torch.cat(shifted, 3)  # [B, h, w, 9 D], in the order of the weights below
        product = functional.linear(neighbourhoods, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)
        return product.permute(0, 3, 1, 2)


def _in_bfloat16() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
