"""What tests of methods share: a batch with a teacher, a small federation, a search for pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from federation.engines.sequential import SequentialEngine
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.method import Method
from federation.round import RoundConfig, RoundRecord, run_round
from federation.server import ServerState, new_server
from incremental.detection import DetectionConfig
from incremental.head import grow_head
from incremental.network import (
    IncrementalNetwork,
    NetworkConfig,
    build_network,
    freeze,
    initial_weights,
)
from incremental.proxy import ProxyConfig, ProxyServer
from incremental.reconstruction import ReconstructionConfig
from twin.batches import TrainingBatch
from twin.messages import Observation, TwinUpdate
from twin.objective import LocalContext, Terms

OLD, CLASSES = 3, 5
ROWS = (0, 0, 2, 1, 3, 4, 3, 4)


@dataclass(frozen=True)
class Scene:
    """One step of a twin that has finished two tasks; the teacher knows the first three classes."""

    network: IncrementalNetwork
    batch: TrainingBatch
    context: LocalContext

    @property
    def without_teacher(self) -> LocalContext:
        return replace(self.context, old_network=None, old_rows=0)

    def logits(self) -> Tensor:
        return self.network(self.batch.images).logits.detach()

    def old_logits(self) -> Tensor:
        assert self.context.old_network is not None
        return self.context.old_network(self.batch.images).logits

    def terms(self, method: Method, context: LocalContext | None = None) -> Terms:
        return method.local_loss(self.network, self.batch, context or self.context)

    def total(self, method: Method, context: LocalContext | None = None) -> Tensor:
        return torch.stack(list(self.terms(method, context).values())).sum()


@pytest.fixture
def scene(tiny_network: NetworkConfig) -> Scene:
    generator = torch.Generator().manual_seed(5)
    weights = grow_head(initial_weights(tiny_network, 2), CLASSES, generator)
    old = grow_head(initial_weights(tiny_network, 1), OLD, generator)
    weights["head.weight"] *= (
        8  # logits far enough from each other for gradients and weights to differ
    )
    old["head.weight"] *= 8
    batch = TrainingBatch(torch.rand(len(ROWS), 3, 16, 16, generator=generator), torch.tensor(ROWS))
    context = LocalContext(
        CLASSES, ((0, 2), (1,), (3, 4)), weights, freeze(build_network(tiny_network, old)), OLD
    )
    return Scene(build_network(tiny_network, weights).eval(), batch, context)


@dataclass(frozen=True)
class Played:
    """What became of a federation."""

    server: ServerState
    proxy: ProxyServer
    records: tuple[RoundRecord, ...]
    engine: SequentialEngine

    @property
    def updates(self) -> list[TwinUpdate]:
        return [update for record in self.records for update in record.accepted]


Play = Callable[..., Played]


@pytest.fixture(scope="session")
def quick_ward(tiny_hospitals: SimulatedHospitals) -> SimulatedHospitals:
    """The tiny hospitals, with twins that notice every task."""
    twin = replace(tiny_hospitals.setting.twin, detection=DetectionConfig(jump_fraction=0.01))
    return replace(tiny_hospitals, setting=replace(tiny_hospitals.setting, twin=twin))


@pytest.fixture(scope="session")
def play(quick_ward: SimulatedHospitals) -> Play:
    """Runs six rounds over three tasks; the head grows at least in rounds 0 and 2."""

    def run(method: Method, rounds: int = 6, engine: SequentialEngine | None = None) -> Played:
        engine = engine or SequentialEngine(quick_ward)
        server, proxy = (
            new_server(quick_ward.setting.network, seed=3, settle_rounds=0),
            ProxyServer(ProxyConfig()),
        )
        records = []
        for _ in range(rounds):
            server, record = run_round(server, engine, method, proxy, RoundConfig())
            records.append(record)
        return Played(server, proxy, tuple(records), engine)

    return run


@pytest.fixture
def few_steps() -> ReconstructionConfig:
    return ReconstructionConfig(perturb_steps=2, invert_steps=3)


@pytest.fixture
def same() -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]:
    """Whether two models are the same bits."""
    return lambda one, other: (
        one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    )


@pytest.fixture
def assert_wall(tiny_hospitals: SimulatedHospitals) -> Callable[[Played, set[str]], None]:
    """Checks that updates hold no 16 neighbouring values of any image of the archive."""
    images = tiny_hospitals.archive.images
    forms = [form.reshape(-1, 16) for form in (images, images.transpose(0, 3, 1, 2))]
    traces = {
        row.tobytes()
        for form in forms
        for each in (
            form,
            form.astype(np.float32),
            form.astype(np.float32) / 255,
            form.astype(np.int64),
        )
        for row in each
        if len(set(row.tolist())) > 3
    }
    widths = {len(trace) for trace in traces}

    def check(played: Played, declared: set[str]) -> None:
        method_uploads = {name for update in played.updates for name in update.upload}
        assert method_uploads == declared
        for update in played.updates:
            assert update.weights.keys() == played.server.weights.keys()
            assert all(isinstance(value, float) for value in update.metrics.values())
            for tensor in (*update.weights.values(), *update.upload.values()):
                raw, size = tensor.detach().contiguous().numpy().tobytes(), tensor.element_size()
                assert not any(
                    raw[at : at + width] in traces
                    for at in range(0, len(raw), size)
                    for width in widths
                )
                assert tensor.shape[-2:] != (16, 16)

    return check


@pytest.fixture
def grown(tiny_network: NetworkConfig) -> ServerState:
    """A server that knows five classes."""
    from federation.server import grow_for_new_classes

    names = tuple("abcde")
    return grow_for_new_classes(
        new_server(tiny_network, 1, settle_rounds=0), [Observation("north", 0, 1, True, names)]
    )[0]
