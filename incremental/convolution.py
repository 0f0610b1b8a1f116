"""Fast bfloat16 convolutions on a CPU, for training small maps and for folded inference.

oneDNN's bfloat16 kernels fill the CPU's matrix units with the pixels of one row of a map. Rows of
four or eight pixels, as in the last stages of a network, run at a tenth of full speed. So small
maps of a batch are laid side by side, with a column of zeros between neighbours, to form long rows
(``benchmarks/convolution.py``).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

# Largest outputs (positions) for which side by side is faster.
SMALL_MAP = 16
MEDIUM_MAP = 64  # with MANY_CHANNELS or more
MANY_CHANNELS = 256


class Convolution(nn.Conv2d):
    """A 3x3 convolution with padding 1.

    Args:
        channels_in: Channels of the input.
        channels: Channels of the output.
        stride: Step between positions [px].
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__(channels_in, channels, 3, stride, padding=1, bias=False)

    def forward(self, maps: Float[Tensor, "B D H W"]) -> Float[Tensor, "B E h w"]:
        """Return the convolved maps; side by side, products are summed in another order."""
        height, width = (_output_side(side, self.stride[0]) for side in maps.shape[2:])
        if not (is_small(height, width, self.out_channels) and _in_bfloat16(maps)):
            return super().forward(maps)
        return side_by_side(maps.bfloat16(), self.weight, self.bias, self.stride[0])


class Shortcut(nn.Conv2d):
    """A 1x1 convolution without padding, as a matrix product.

    Torch's own gradient in channels-last float32 writes outside its memory on CPUs with AVX-512
    with few channels and large maps (torch 2.14: a segmentation fault with 8 channels and stride 2
    from sides of 56 px on), and its gradients in bfloat16 are slow.

    Args:
        channels_in: Channels of the input.
        channels: Channels of the output.
        stride: Step between positions [px].
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__(channels_in, channels, 1, stride, bias=False)

    def forward(self, maps: Float[Tensor, "B D H W"]) -> Float[Tensor, "B E h w"]:
        """Return the convolved maps."""
        if _in_bfloat16(maps):
            maps = maps.bfloat16()
        pixels = maps.permute(0, 2, 3, 1)[:, :: self.stride[0], :: self.stride[1]]
        return functional.linear(pixels, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class FoldedConvolution(nn.Module):
    """Convolution, batch normalisation, sum and rectifier in one module, for inference.

    In bfloat16 on a CPU and without gradients it is a single oneDNN operator.

    Args:
        convolution: Is not changed.
        norm: Batch normalisation whose running statistics are used; is not changed.
        rectify: Whether a rectifier follows.
    """

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, rectify: bool = True) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        self.weight, self.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, *statistics
        )
        self.rectify = rectify
        assert not isinstance(convolution.padding, str)
        self._shape = convolution.stride, convolution.padding
        self._is_3x3 = isinstance(convolution, Convolution)
        self._bfloat16_parameters: tuple[Tensor, Tensor] | None = None

    def forward(
        self, maps: Float[Tensor, "B D H W"], added: Float[Tensor, "B E h w"] | None = None
    ) -> Float[Tensor, "B E h w"]:
        """Return ``relu(convolution(maps) + added)``, with sum and rectifier only if wanted.

        Args:
            maps: Input.
            added: Shortcut of a residual block, which may be overwritten; none: no sum.
        """
        if _in_bfloat16(maps) and not (torch.is_grad_enabled() and maps.requires_grad) and _FUSES:
            return self._fused_forward(
                maps.bfloat16().contiguous(memory_format=torch.channels_last), added
            )
        sums = functional.conv2d(maps, self.weight, self.bias, *self._shape)
        sums = sums if added is None else sums + added
        return torch.relu(sums) if self.rectify else sums

    def _fused_forward(self, maps: Tensor, added: Tensor | None) -> Tensor:
        if self._bfloat16_parameters is None:
            self._bfloat16_parameters = (
                self.weight.detach().to(torch.bfloat16, memory_format=torch.channels_last),
                self.bias.detach().bfloat16(),
            )
        stride, padding = self._shape
        height, width = (_output_side(side, stride[0]) for side in maps.shape[2:])
        if height * width <= SMALL_MAP and self._is_3x3:
            sums = side_by_side(maps, *self._bfloat16_parameters, stride[0])
            sums = sums if added is None else sums.add_(added)
            return sums.relu_() if self.rectify else sums
        where = (maps, *self._bfloat16_parameters, padding, stride, (1, 1), 1)
        if added is None:
            then = "relu" if self.rectify else "none"
            result: Tensor = torch.ops.mkldnn._convolution_pointwise(*where, then, [], "")
            return result
        after = "relu" if self.rectify else None
        binary = torch.ops.mkldnn._convolution_pointwise_.binary
        summed: Tensor = binary(added, *where, "add", 1.0, after, [], "")
        return summed


def is_small(height: int, width: int, channels: int) -> bool:
    """Return whether training a convolution with such outputs is faster side by side (measured).

    Args:
        height: Height of the output [px].
        width: Width of the output [px].
        channels: Channels of the output.
    """
    return height * width <= (MEDIUM_MAP if channels >= MANY_CHANNELS else SMALL_MAP)


def side_by_side(
    maps: Float[Tensor, "B D H W"],
    weight: Float[Tensor, "E D 3 3"],
    bias: Float[Tensor, " E"] | None,
    stride: int,
) -> Float[Tensor, "B E h w"]:
    """Return the 3x3 convolution with padding 1 of small maps, computed in long rows.

    Args:
        maps: Input, in the precision of the weights or under autocast.
        weight: Weights of the convolution.
        bias: Bias of the convolution.
        stride: Step between positions [px].
    """
    count, channels, height, width = maps.shape
    high, wide = _output_side(height, stride), _output_side(width, stride)
    # Distance of neighbours: at least one column of zeros, and a whole number of steps.
    pitch = -(-(width + 1) // stride) * stride
    rows = 2 - count % 2  # two long rows of maps keep two threads busy
    each = count // rows
    pixels = (
        maps.permute(0, 2, 3, 1).reshape(rows, each, height, width, channels).permute(0, 2, 1, 3, 4)
    )
    long = (
        functional.pad(pixels, (0, 0, 0, pitch - width))
        .reshape(rows, height, each * pitch, channels)
        .permute(0, 3, 1, 2)
    )
    convolved = functional.conv2d(long, weight, bias, stride, 1).permute(
        0, 2, 3, 1
    )  # [rows, h, each * pitch / stride, E]
    apart = convolved.reshape(rows, high, each, pitch // stride, len(weight))[
        :, :, :, :wide
    ].permute(0, 2, 1, 3, 4)
    return apart.reshape(count, high, wide, len(weight)).permute(0, 3, 1, 2)


def _output_side(side: int, step: int) -> int:
    return (side - 1) // step + 1


def _in_bfloat16(maps: Tensor) -> bool:
    """Return whether there are maps to convolve in bfloat16 on a CPU."""
    return (
        bool(len(maps))
        and maps.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


# The operators that torch's own compiler uses; a build without oneDNN, or a processor without
# bfloat16, has to go the plain way.
_FUSES = hasattr(torch.ops.mkldnn, "_convolution_pointwise") and bool(
    torch.ops.mkldnn._is_mkldnn_bf16_supported()
)
