"""Networks without batch normalisation, and images to train them on."""

import pytest
import torch
from torch import Tensor

from incremental.head import grow_head
from incremental.network import IncrementalNetwork, build_network, initial_weights
from tests.twin.privacy.private_examples import NETWORKS, ROWS


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> IncrementalNetwork:
    """Each of the networks in turn."""
    return _network(request.param)


@pytest.fixture
def lenet() -> IncrementalNetwork:
    """The LeNet alone."""
    return _network("lenet")


def _network(name: str) -> IncrementalNetwork:
    config, generator = NETWORKS[name], torch.Generator().manual_seed(1)
    return build_network(config, grow_head(initial_weights(config, 1), ROWS, generator))


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    """24 images in channels last format, as a hospital's are, and their rows."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return images.to(memory_format=torch.channels_last), torch.arange(24) % ROWS
