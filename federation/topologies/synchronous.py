"""Synchronous star: the server asks a part of the twins in each round and waits for all of them.

Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,
AISTATS 2017, algorithm 1. Every update has age 0 and weight 1. The steps of a round stand in
``federation.round``.
"""

from dataclasses import dataclass

from federation.method import Method
from federation.round import Engine, RoundConfig, RoundRecord, run_round
from federation.server import ServerState
from incremental.proxy import ProxyServer


@dataclass(frozen=True)
class Synchronous:
    """The synchronous star.

    Args:
        config: Participation, screening and defence.
    """

    config: RoundConfig

    def advance(
        self, server: ServerState, engine: Engine, method: Method, proxy: ProxyServer
    ) -> tuple[ServerState, RoundRecord]:
        """Run one round."""
        return run_round(server, engine, method, proxy, self.config)
