import pytest
import torch
from torch import Tensor

from incremental.head import grow_head
from incremental.network import (
    IncrementalNetwork,
    build_network,
    initial_weights,
)
from tests.twin.privacy.private_examples import NETWORKS, ROWS


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> IncrementalNetwork:
    config = NETWORKS[request.param]
    return build_network(
        config, grow_head(initial_weights(config, 1), ROWS, torch.Generator().manual_seed(1))
    )


@pytest.fixture
def lenet() -> IncrementalNetwork:
    config = NETWORKS["lenet"]
    return build_network(
        config, grow_head(initial_weights(config, 1), ROWS, torch.Generator().manual_seed(1))
    )


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return images.to(memory_format=torch.channels_last), torch.arange(
        24
    ) % ROWS  # pixel by pixel, as a hospital's images lie
