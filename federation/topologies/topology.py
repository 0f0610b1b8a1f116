"""Topology: the interface of a way in which server and twins exchange models."""

from typing import Protocol, runtime_checkable

from federation.method import Method
from federation.round import Engine, RoundRecord
from federation.server import ServerState
from incremental.proxy import ProxyServer


@runtime_checkable
class Topology(Protocol):
    """Decides who sends what to whom and when."""

    def advance(
        self, server: ServerState, engine: Engine, method: Method, proxy: ProxyServer
    ) -> tuple[ServerState, RoundRecord]:
        """Let the federation make its next step, after which ``server.round`` is one more.

        Args:
            server: Where the server stands.
            engine: Where twins run; its answers may come one by one.
            method: How twins learn, and how what arrived is merged.
            proxy: Keeper of the best and the old model; changed in place.

        Returns:
            The server after the step, and the record of it.
        """
        ...
