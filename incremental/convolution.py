"""A 3x3 convolution that is quick on small maps too. Knows no network.

oneDNN's bfloat16 kernels fill the matrix units with the pixels of one row of the map. On the last stage of our networks a row has four
pixels, and they run at a tenth of the speed of a matrix product (``benchmarks/convolution.py``). There, each position's neighbourhood is
copied out, and the convolution and both of its gradients are products of matrices; everywhere else it is the library's.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.grad import conv2d_input

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
        height, width = (_positions(side, self.stride[0]) for side in maps.shape[2:])
        if height * width > MOST_POSITIONS or maps.device.type != "cpu" or not _in_bfloat16():
            return super().forward(maps)
        product: Tensor = _Product.apply(maps.bfloat16(), self.weight.bfloat16(), self.stride[0])
        return product if self.bias is None else product + self.bias.to(product.dtype)[:, None, None]


class _Product(torch.autograd.Function):
    """The convolution as one product of matrices, and its gradients as one each. Nothing but its arguments is kept in between."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, stride: int) -> Tensor:
        """Return the convolved maps, in channels-last order."""
        ctx.save_for_backward(maps, weight)
        ctx.stride = stride
        return _multiply(maps, weight, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of maps and weight."""
        maps, weight = ctx.saved_tensors
        of_maps = of_weight = None
        if ctx.needs_input_grad[1]:
            rows = slope.permute(0, 2, 3, 1).reshape(-1, len(weight))  # [B h w, E]
            flat = rows.t() @ _neighbourhoods(maps, ctx.stride).flatten(0, 2)  # [E, 9 D]
            of_weight = flat.view(len(weight), 3, 3, -1).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[0] and ctx.stride == 1:
            of_maps = _multiply(slope, weight.flip(2, 3).transpose(0, 1), 1)  # a convolution with the weights turned round
        elif ctx.needs_input_grad[0]:
            of_maps = conv2d_input(maps.shape, weight, slope, ctx.stride, 1)  # type: ignore[no-untyped-call]
        return of_maps, of_weight, None


def _multiply(maps: Tensor, weight: Tensor, stride: int) -> Tensor:
    return functional.linear(_neighbourhoods(maps, stride), weight.permute(0, 2, 3, 1).flatten(1)).permute(0, 3, 1, 2)


def _neighbourhoods(maps: Float[Tensor, "B D H W"], step: int) -> Float[Tensor, "B h w E"]:
    """Return the nine pixels around each position, in the order of a channels-last weight, E = 9 D."""
    height, width = (_positions(side, step) for side in maps.shape[2:])
    padded = functional.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # [B, H + 2, W + 2, D]
    across = (padded.stride(0), padded.stride(1) * step, padded.stride(2) * step, padded.stride(1), padded.stride(2), padded.stride(3))
    windows = padded.as_strided((len(maps), height, width, 3, 3, maps.shape[1]), across)
    return windows.reshape(len(maps), height, width, 9 * maps.shape[1])


def _positions(side: int, step: int) -> int:
    return (side - 1) // step + 1


def _in_bfloat16() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
