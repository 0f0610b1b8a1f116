"""A federation of one twin.

Its hospital, its rounds, and a method that writes down what the twin shows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from federation.methods.fedavg import FedAvg
from federation.server import ServerState, grow_for_new_classes
from incremental.detection import DetectionConfig
from incremental.inference import logits_of
from incremental.network import IncrementalNetwork, build_network
from physical.batch import Batch
from physical.hospital import Arrival, Hospital
from physical.transforms import to_tensor
from twin.batches import TrainingBatch
from twin.config import TwinConfig, TwinSetting
from twin.messages import Broadcast, Observation
from twin.objective import LocalContext, Terms
from twin.twin import DigitalTwin

METHOD = FedAvg(memory=True)
FIRST, SECOND = (
    (1, 2),
    (0, 3),
)  # red stripes arrive in round 0, plain images, which look like neither, in round 2


@dataclass
class Witness:
    """A method that writes down what a twin shows it."""

    replays: bool = True
    held_out_fraction: float = 0.0
    upload: dict[str, Tensor] = field(default_factory=dict)
    keep: dict[str, Tensor] = field(default_factory=dict)
    batches: list[TrainingBatch] = field(default_factory=list)
    contexts: list[LocalContext] = field(default_factory=list)
    prototypes: tuple[Tensor, Tensor] | None = None

    def local_loss(
        self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
    ) -> Terms:
        self.batches.append(batch)
        return {"fit": torch.nn.functional.cross_entropy(network(batch.images).logits, batch.rows)}

    def finish_local(
        self, network: IncrementalNetwork, context: LocalContext
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        self.contexts.append(context)
        assert context.prototypes is not None
        self.prototypes = context.prototypes(network)
        return self.upload, self.keep

    def images(self) -> set[bytes]:
        return {bytes_of(image) for batch in self.batches for image in batch.images}


def bytes_of(image: Tensor) -> bytes:
    return (image * 255).round().to(torch.uint8).numpy().tobytes()


def positions_of(batch: Batch, labels: tuple[int, ...]) -> NDArray[np.int64]:
    return np.flatnonzero(np.isin(batch.labels, labels))


def named(batch: Batch, labels: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(batch.vocabulary[label] for label in labels)


def hospital_of(
    batch: Batch, *arrivals: tuple[int, tuple[int, ...]], name: str = "north"
) -> Hospital:
    return Hospital(
        name, batch, [Arrival(when, positions_of(batch, labels)) for when, labels in arrivals]
    )


def with_twin(setting: TwinSetting, **changes: Any) -> TwinSetting:
    return replace(
        setting,
        twin=TwinConfig(
            **{
                "memory_capacity": 12,
                "detection": setting.twin.detection,
                **changes,
            }
        ),
    )


def deaf(setting: TwinSetting, **changes: Any) -> TwinSetting:
    return with_twin(
        setting, detection=DetectionConfig(jump_fraction=0.99, reference_classes=1000), **changes
    )


def look(twin: DigitalTwin, server: ServerState) -> Observation:
    return twin.observe(server.model, build_network(server.network, server.weights))


def broadcast(server: ServerState, seed: int = 1) -> Broadcast:
    return replace(METHOD.broadcast(server, None, "any"), seed=seed)


def live(
    twin: DigitalTwin, server: ServerState, rounds: int
) -> tuple[ServerState, list[Observation]]:
    """Rounds of a federation of one.

    Look, grow, train, and take what comes back for the global model.
    """
    observations = []
    for _ in range(rounds):
        observations.append(look(twin, server))
        server, _ = grow_for_new_classes(server, observations[-1:])
        update = twin.train(broadcast(server, seed=server.round), METHOD)
        server = replace(server, weights=update.weights, round=server.round + 1)
    return server, observations


def share_named_rightly(server: ServerState, batch: Batch, positions: NDArray[np.int64]) -> float:
    rows = logits_of(
        build_network(server.network, server.weights), to_tensor(batch.images[positions])
    ).argmax(1)
    return float(
        np.mean(
            [
                server.class_names[row] == batch.vocabulary[label]
                for row, label in zip(rows, batch.labels[positions], strict=True)
            ]
        )
    )


def announce(server: ServerState, batch: Batch, labels: tuple[int, ...]) -> ServerState:
    """Return the server after another hospital has announced these classes."""
    return grow_for_new_classes(
        server, [Observation("south", server.round, 1, True, named(batch, labels))]
    )[0]
