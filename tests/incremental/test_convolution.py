import pytest
import torch
from torch.nn import functional

from incremental.convolution import MOST_POSITIONS, Convolution, _Product


def layer(channels_in=6, channels=5, stride=1):
    torch.manual_seed(1)
    return Convolution(channels_in, channels, stride)


def in_bfloat16(convolution, maps):
    with torch.autocast("cpu", torch.bfloat16):
        return convolution(maps)


@pytest.mark.parametrize(("side", "stride"), [(4, 1), (7, 2), (8, 2), (3, 1), (1, 1)])
def test_small_maps_are_convolved_as_the_definition_says(side, stride):
    convolution, maps = layer(stride=stride), torch.randn(2, 6, side, side)
    found = in_bfloat16(convolution, maps).detach()
    padded, weight = functional.pad(maps, (1, 1, 1, 1)).bfloat16().double(), convolution.weight.detach().bfloat16().double()
    for image in range(2):
        for channel in range(5):
            for row in range(found.shape[2]):
                for column in range(found.shape[3]):
                    window = padded[image, :, row * stride : row * stride + 3, column * stride : column * stride + 3]
                    assert abs(float((window * weight[channel]).sum()) - float(found[image, channel, row, column])) < 0.02


@pytest.mark.parametrize(("side", "stride"), [(4, 1), (8, 2)])
def test_gradients_of_small_maps_are_those_of_the_library(side, stride):
    convolution = layer(stride=stride)
    maps = torch.randn(3, 6, side, side, requires_grad=True)
    aim = torch.randn(3, 5, 4, 4)
    ours = torch.autograd.grad((in_bfloat16(convolution, maps).float() * aim).sum(), [maps, convolution.weight])
    library = functional.conv2d(maps, convolution.weight, None, stride, 1)
    theirs = torch.autograd.grad((library * aim).sum(), [maps, convolution.weight])
    for mine, its in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.float(), its, rtol=0.03, atol=0.06)


def test_float32_and_large_maps_are_the_librarys_bit_for_bit():
    convolution, small, large = layer(), torch.randn(2, 6, 4, 4), torch.randn(2, 6, 9, 9)
    assert torch.equal(convolution(small), functional.conv2d(small, convolution.weight, None, 1, 1))
    assert MOST_POSITIONS < 9 * 9
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(convolution(large), functional.conv2d(large, convolution.weight, None, 1, 1))


@pytest.mark.parametrize("stride", [1, 2])
def test_gradient_checker_agrees(stride):
    maps, weight = torch.randn(2, 2, 5, 5, dtype=torch.float64), torch.randn(3, 2, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *both: _Product.apply(*both, stride), (maps.requires_grad_(), weight.requires_grad_()))
