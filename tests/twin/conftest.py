"""A twin's setting in which it learns its classes, and a server for it."""

from dataclasses import replace

import pytest

from federation.server import ServerState, new_server
from twin.config import TwinSetting


@pytest.fixture
def setting(tiny_setting: TwinSetting) -> TwinSetting:
    """The tiny setting with six epochs, after which a twin knows its classes."""
    return replace(tiny_setting, training=replace(tiny_setting.training, epochs=6))


@pytest.fixture
def server(setting: TwinSetting) -> ServerState:
    """A server that knows no class yet."""
    return new_server(setting.network, seed=1, settle_rounds=0)
