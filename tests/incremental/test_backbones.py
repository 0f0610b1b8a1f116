import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from incremental.backbones import BACKBONES, Norm, normalisation
from incremental.network import NetworkConfig


def images_of(count: int = 2, side: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1))


def test_resnet18_has_as_many_weights_as_that_of_the_papers() -> None:
    with torch.device("meta"):
        backbone = BACKBONES["resnet18"](64, 3, "batch")
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 11_168_832
    assert backbone.num_features == 512


@pytest.mark.parametrize(
    ("name", "middle", "last"),
    [
        ("resnet18", (16, 8, 8), (32, 4, 4)),
        ("resnet10", (16, 8, 8), (32, 4, 4)),
        ("lenet", (4, 16, 16), (8, 4, 4)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_32_pixels_leaves_a_last_map_of_4_by_4(
    name: str, middle: tuple[int, ...], last: tuple[int, ...], channels: int
) -> None:
    backbone = BACKBONES[name](4, channels, "batch")
    maps = backbone.lower(images_of(channels=channels))
    assert maps.shape[1:] == middle
    assert backbone.upper(maps).shape[1:] == last
    assert backbone.num_features == last[0]


@pytest.mark.parametrize("name", BACKBONES)
def test_images_of_16_pixels_leave_maps_larger_than_one_position(name: str) -> None:
    backbone = BACKBONES[name](4, 3, "batch")
    assert min(backbone.upper(backbone.lower(images_of(side=16))).shape[2:]) >= 2


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_no_operation_is_in_place(name: str, norm: Norm) -> None:
    backbone = BACKBONES[name](8, 3, norm)
    assert not [module for module in backbone.modules() if getattr(module, "inplace", False)]
    images = images_of()
    backbone.upper(backbone.lower(images))
    assert torch.equal(images, images_of())


@pytest.mark.parametrize("name", BACKBONES)
def test_group_normalisation_gives_gradients_per_image(name: str) -> None:
    backbone = BACKBONES[name](8, 3, "group")
    assert not list(backbone.buffers())
    images = images_of(3)

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.backbone.upper(self.backbone.lower(images)).square().sum()

    model = Sum()
    parameters: dict[str, torch.Tensor] = dict(model.named_parameters())

    def loss(parameters: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = functional_call(model, parameters, (image[None],))
        return result

    each = vmap(grad(loss), in_dims=(None, 0))(parameters, images)
    together = torch.autograd.grad(model(images), list(parameters.values()))
    for name_of_weight, total in zip(parameters, together, strict=True):
        torch.testing.assert_close(each[name_of_weight].sum(0), total, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", BACKBONES)
def test_group_normalisation_keeps_images_apart(name: str) -> None:
    backbone = BACKBONES[name](8, 3, "group").train()
    images = images_of(3)
    torch.testing.assert_close(backbone.lower(images)[:1], backbone.lower(images[:1]))


@pytest.mark.parametrize("width", [2, 4, 11, 13, 16, 20, 64])
def test_every_allowed_width_can_have_group_normalisation(width: int) -> None:
    config = NetworkConfig(
        backbone="resnet10", width=width, norm="group"
    )  # the wall: a width that cannot be is refused here
    with torch.device("meta"):
        backbone = BACKBONES[config.backbone](config.width, config.channels, config.norm)
    assert backbone.num_features == 8 * width


def test_group_normalisation_has_8_channels_a_group_where_they_divide() -> None:
    layer = normalisation("group", 64)
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == 8
