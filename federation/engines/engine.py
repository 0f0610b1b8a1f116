"""Engine interface: an engine whose twins' states can be read and that can be closed."""

from collections.abc import Callable, MutableMapping
from typing import Protocol, runtime_checkable

from federation.round import Engine
from twin.state import TwinState

# Called with stage ("observe" or "train") and twin id whenever a twin is done.
TwinDone = Callable[[str, str], None]


def ignore_twin_done(stage: str, twin_id: str) -> None:
    """Do nothing: the default callback."""


@runtime_checkable
class ClosableEngine(Engine, Protocol):
    """An engine that holds resources."""

    def close(self) -> None:
        """Release what the engine holds."""
        ...


@runtime_checkable
class TwinEngine(ClosableEngine, Protocol):
    """An engine whose twins' states can be taken out and put back."""

    @property
    def states(self) -> MutableMapping[str, TwinState]:
        """State of each twin that has observed."""
        ...
