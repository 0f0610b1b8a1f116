"""Updates that leave a twin, and rounds of a federation that releases them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from federation.engines.sequential import SequentialEngine
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.round import RoundConfig, run_round
from federation.server import new_server
from incremental.proxy import ProxyConfig, ProxyServer
from twin.compression import CompressionConfig
from twin.privacy.update_release import UpdateReleaseConfig
from twin.state import TwinState

RESIDUAL = "outgoing/residual/"


def compressed(
    hospitals: SimulatedHospitals, kind: Any, feedback: bool = True, share: float = 0.1
) -> SimulatedHospitals:
    config = UpdateReleaseConfig(CompressionConfig(kind, share, feedback))
    return replace(hospitals, setting=replace(hospitals.setting, outgoing=config))


def play(
    hospitals: SimulatedHospitals, method: Any, rounds: int = 4, engine: Any = None
) -> tuple[Any, ...]:
    engine = engine or SequentialEngine(hospitals)
    server, proxy, records = (
        new_server(hospitals.setting.network, 3, settle_rounds=0),
        ProxyServer(ProxyConfig()),
        [],
    )
    for _ in range(rounds):
        server, record = run_round(server, engine, method, proxy, RoundConfig())
        records.append(record)
    return server, records, engine


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def residuals(state: TwinState) -> dict[str, Any]:
    return {name: value for name, value in state.kept.items() if name.startswith(RESIDUAL)}
