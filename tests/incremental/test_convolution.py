import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import BatchNorm2d

from incremental import convolution as room
from incremental.convolution import MEDIUM_MAP, Convolution, FoldedConvolution, side_by_side


def layer(channels_in: int = 6, channels: int = 5, stride: int = 1) -> Convolution:
    torch.manual_seed(1)
    return Convolution(channels_in, channels, stride)


def in_bfloat16(convolution: Convolution | FoldedConvolution, *maps: Any) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return convolution(*maps)


@pytest.mark.parametrize(("side", "stride"), [(4, 1), (7, 2), (8, 2), (3, 1), (1, 1)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_small_maps_are_convolved_as_the_definition_says(
    side: int, stride: int, count: int
) -> None:
    convolution, maps = layer(stride=stride), torch.randn(count, 6, side, side)
    found = in_bfloat16(convolution, maps).detach()
    padded, weight = (
        functional.pad(maps, (1, 1, 1, 1)).bfloat16().double(),
        convolution.weight.detach().bfloat16().double(),
    )
    for image in range(count):
        for channel in range(5):
            for row in range(found.shape[2]):
                for column in range(found.shape[3]):
                    window = padded[
                        image,
                        :,
                        row * stride : row * stride + 3,
                        column * stride : column * stride + 3,
                    ]
                    assert (
                        abs(
                            float((window * weight[channel]).sum())
                            - float(found[image, channel, row, column])
                        )
                        < 0.02
                    )


@pytest.mark.parametrize(("side", "stride"), [(4, 1), (5, 1), (7, 2), (8, 2), (9, 3)])
@pytest.mark.parametrize("count", [1, 4, 5])
def test_side_by_side_is_the_librarys_convolution_with_its_gradients(
    side: int, stride: int, count: int
) -> None:
    torch.manual_seed(2)
    given = torch.randn(count, 6, side, side), torch.randn(5, 6, 3, 3), torch.randn(5)
    aim = torch.randn_like(functional.conv2d(*given, stride, 1))

    def answers(convolve: Callable[..., Any]) -> tuple[Tensor, ...]:
        inputs = [each.double().requires_grad_() for each in given]
        maps = convolve(*inputs)
        return maps, *torch.autograd.grad((maps * aim).sum(), inputs)

    ours = answers(lambda maps, weight, bias: side_by_side(maps, weight, bias, stride))
    theirs = answers(lambda maps, weight, bias: functional.conv2d(maps, weight, bias, stride, 1))
    for mine, its in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, its, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("side", "stride"), [(4, 1), (8, 2)])
def test_gradients_of_small_maps_in_bfloat16_are_those_of_the_library(
    side: int, stride: int
) -> None:
    convolution = layer(stride=stride)
    maps = torch.randn(3, 6, side, side, requires_grad=True)
    aim = torch.randn(3, 5, 4, 4)
    ours = torch.autograd.grad(
        (in_bfloat16(convolution, maps).float() * aim).sum(), [maps, convolution.weight]
    )
    library = functional.conv2d(maps, convolution.weight, None, stride, 1)
    theirs = torch.autograd.grad((library * aim).sum(), [maps, convolution.weight])
    for mine, its in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.float(), its, rtol=0.03, atol=0.06)


def test_medium_maps_are_laid_side_by_side_where_channels_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    monkeypatch.setattr(
        room,
        "side_by_side",
        lambda maps, weight, *rest: (
            seen.append(len(weight)) or functional.conv2d(maps, weight, None, 1, 1)  # type: ignore[func-returns-value]  # returns nothing
        ),
    )
    for channels in (room.MANY_CHANNELS - 1, room.MANY_CHANNELS):
        in_bfloat16(layer(2, channels), torch.randn(1, 2, 8, 8))
    assert seen == [room.MANY_CHANNELS]


def test_float32_and_large_maps_are_the_librarys_bit_for_bit() -> None:
    convolution, small, large = layer(), torch.randn(2, 6, 4, 4), torch.randn(2, 6, 9, 9)
    assert torch.equal(convolution(small), functional.conv2d(small, convolution.weight, None, 1, 1))
    assert MEDIUM_MAP < 9 * 9
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(
            convolution(large), functional.conv2d(large, convolution.weight, None, 1, 1)
        )


def norm_of(channels: int = 5) -> BatchNorm2d:
    torch.manual_seed(3)
    norm = nn.BatchNorm2d(channels).eval()
    for each in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(cast(Any, each))
    nn.init.uniform_(cast(Any, norm.running_var), 0.5, 2)
    return norm


FOLDED = [("3x3", 4, 1), ("3x3", 12, 1), ("3x3", 12, 2), ("1x1", 8, 2), ("5x5", 12, 2)]


def folded_case(kind: Any, side: int, stride: int) -> tuple[Any, ...]:
    torch.manual_seed(1)
    if kind == "3x3":
        convolution = Convolution(6, 5, stride)
    else:
        size = int(kind[0])
        convolution = nn.Conv2d(6, 5, size, stride, padding=size // 2, bias=kind == "5x5")  # type: ignore[assignment]  # changes its type
    return convolution.eval(), torch.randn(3, 6, side, side)


@pytest.mark.parametrize(("kind", "side", "stride"), FOLDED)
@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("bfloat16", [True, False])
def test_a_folded_convolution_is_convolution_norm_sum_and_rectifier(
    kind: Any, side: int, stride: int, rectify: bool, adds: bool, bfloat16: bool
) -> None:
    (convolution, maps), norm = folded_case(kind, side, stride), norm_of()
    with torch.no_grad():
        expected = norm(convolution(maps))
        added = torch.randn_like(expected) if adds else None
        expected = expected if added is None else expected + added
        expected = torch.relu(expected) if rectify else expected
        folded = FoldedConvolution(convolution, norm, rectify)
        if not bfloat16:
            assert torch.allclose(folded(maps, added), expected, rtol=1e-5, atol=1e-5)
            return
        for _ in range(2):  # the second time from weights that were cast the first time
            beside = (
                None
                if added is None
                else added.bfloat16().contiguous(memory_format=torch.channels_last)
            )
            found = in_bfloat16(folded, maps, beside)
            assert found.dtype == torch.bfloat16
            assert torch.allclose(found.float(), expected, rtol=0.03, atol=0.08)


def test_gradients_flow_through_a_folded_convolution_where_they_are_asked_for() -> None:
    (convolution, maps), norm = folded_case("3x3", 12, 1), norm_of()
    folded = FoldedConvolution(convolution, norm).requires_grad_(False)
    maps.requires_grad_()
    (ours,) = torch.autograd.grad(in_bfloat16(folded, maps).float().sum(), maps)
    (theirs,) = torch.autograd.grad(torch.relu(norm(convolution(maps))).sum(), maps)
    assert torch.allclose(ours, theirs, rtol=0.05, atol=0.1)


def test_without_onednn_a_folded_convolution_uses_plain_operators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (convolution, maps), norm = folded_case("3x3", 12, 1), norm_of()
    with torch.no_grad():
        fused = in_bfloat16(FoldedConvolution(convolution, norm), maps)
        monkeypatch.setattr(room, "_FUSES", False)
        plain = in_bfloat16(FoldedConvolution(convolution, norm), maps)
    assert torch.allclose(fused.float(), plain.float(), rtol=0.02, atol=0.02)


def test_folding_leaves_the_given_layers_and_a_copy_of_the_folded_one_as_they_are() -> None:
    (convolution, maps), norm = folded_case("3x3", 4, 1), norm_of()
    before = {name: value.clone() for name, value in convolution.state_dict().items()}
    folded = FoldedConvolution(convolution, norm)
    with torch.no_grad():
        first = in_bfloat16(folded, maps)
        assert torch.equal(in_bfloat16(copy.deepcopy(folded), maps), first)
    assert all(torch.equal(value, before[name]) for name, value in convolution.state_dict().items())


def test_an_empty_batch_is_convolved_to_an_empty_batch() -> None:
    (convolution, maps), norm = folded_case("3x3", 4, 1), norm_of()
    with torch.no_grad():
        assert in_bfloat16(convolution, maps[:0]).shape == (0, 5, 4, 4)
        assert in_bfloat16(FoldedConvolution(convolution, norm), maps[:0]).shape == (0, 5, 4, 4)
