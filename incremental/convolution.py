"""Fast bfloat16 convolutions on a CPU, for training small maps and for folded inference.

Know no network. oneDNN's bfloat16 kernels fill the matrix units with the pixels of one row of a
map. In the last stages of our networks a row has four or eight pixels, and they run at a tenth of
the speed of a matrix product. There the maps of the batch are laid side by side, a column of zeros
between two neighbours, so that a row is long: the same products, of which few are wasted
(``benchmarks/convolution.py``).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

# Positions of the output; with more, and few channels, laying side by side costs more than it
# saves.
SMALL_MAP = 16
MEDIUM_MAP = 64  # with many channels
MANY_CHANNELS = 256


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
        """Return the convolved maps.

        The same either way, but for the order in which products are summed up.
        """
        height, width = (_positions(side, self.stride[0]) for side in maps.shape[2:])
        if not (is_small(height, width, self.out_channels) and _in_bfloat16(maps)):
            return super().forward(maps)
        return side_by_side(maps.bfloat16(), self.weight, self.bias, self.stride[0])


class Shortcut(nn.Conv2d):
    """A 1x1 convolution without padding, as a product of matrices.

    The library's own is not used: its gradient in channels-last float32 writes beside its memory on
    CPUs with AVX-512 where channels are few and maps large (torch 2.14: a segmentation fault with 8
    channels and stride 2 from sides of 56 px on), and its gradients in bfloat16 are slow.

    Args:
        channels_in: Of the maps that come.
        channels: Of the maps that go.
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
    """A convolution with the batch normalisation after it folded in.

    The sum and rectifier that follow; for networks that do not learn.

    In bfloat16 on a CPU all of it is one operator of oneDNN's where no gradient is asked for, from
    weights that are cast once.

    Args:
        convolution: Is not changed.
        norm: Whose running statistics count; is not changed.
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
        self._is_ours = isinstance(convolution, Convolution)
        self._cast: tuple[Tensor, Tensor] | None = None

    def forward(
        self, maps: Float[Tensor, "B D H W"], added: Float[Tensor, "B E h w"] | None = None
    ) -> Float[Tensor, "B E h w"]:
        """Return ``relu(convolution(maps) + added)``, without what is not wanted.

        Args:
            maps: What is convolved.
            added: The other way round a residual block; is used up.
        """
        if _in_bfloat16(maps) and not (torch.is_grad_enabled() and maps.requires_grad) and _FUSES:
            return self._at_once(
                maps.bfloat16().contiguous(memory_format=torch.channels_last), added
            )
        sums = functional.conv2d(maps, self.weight, self.bias, *self._shape)
        sums = sums if added is None else sums + added
        return torch.relu(sums) if self.rectify else sums

    def _at_once(self, maps: Tensor, added: Tensor | None) -> Tensor:
        if self._cast is None:
            self._cast = (
                self.weight.detach().to(torch.bfloat16, memory_format=torch.channels_last),
                self.bias.detach().bfloat16(),
            )
        stride, padding = self._shape
        height, width = (_positions(side, stride[0]) for side in maps.shape[2:])
        if height * width <= SMALL_MAP and self._is_ours:
            sums = side_by_side(maps, *self._cast, stride[0])
            sums = sums if added is None else sums.add_(added)
            return sums.relu_() if self.rectify else sums
        where = (maps, *self._cast, padding, stride, (1, 1), 1)
        if added is None:
            then = "relu" if self.rectify else "none"
            alone: Tensor = torch.ops.mkldnn._convolution_pointwise(*where, then, [], "")
            return alone
        after = "relu" if self.rectify else None
        binary = torch.ops.mkldnn._convolution_pointwise_.binary
        summed: Tensor = binary(added, *where, "add", 1.0, after, [], "")
        return summed


def is_small(height: int, width: int, channels: int) -> bool:
    """Whether a convolution that gives such maps is quicker side by side while it learns.

    For measured.

    Args:
        height: Of the maps that it gives [px].
        width: Of the maps that it gives [px].
        channels: Of the maps that it gives.
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
        maps: In the precision of the weights, or under autocast.
        weight: Of the convolution.
        bias: Of the convolution.
        stride: Step between positions [px].
    """
    count, channels, height, width = maps.shape
    high, wide = _positions(height, stride), _positions(width, stride)
    pitch = (
        -(-(width + 1) // stride) * stride
    )  # from one map to the next: at least one column of zeros, and a whole number of steps
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


def _positions(side: int, step: int) -> int:
    return (side - 1) // step + 1


def _in_bfloat16(maps: Tensor) -> bool:
    """Whether there is anything to convolve, and in bfloat16 on a CPU."""
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
