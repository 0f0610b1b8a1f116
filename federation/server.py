"""What the server knows between rounds, and how its head grows. Knows no twin's data and no method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from federation.seeding import seed_for
from incremental.head import Weights, grow_head
from incremental.network import NetworkConfig, initial_weights
from twin.messages import GlobalModel, Observation


@dataclass(frozen=True)
class ServerState:
    """The server between two rounds.

    Args:
        weights: The global model.
        class_names: One per row of its head.
        network: What the weights belong to.
        seed: The run's seed.
        round: Rounds that are over.
        growth_rounds: Rounds in which the head grew; their number is the server's own count of tasks.
        kept: What the method's server half keeps.
        usual_entropy: Mean over twins of the quantiles of entropies of known images [nats].
        usual_images: Images behind them.
    """

    weights: Weights
    class_names: tuple[str, ...]
    network: NetworkConfig
    seed: int
    round: int = 0
    growth_rounds: tuple[int, ...] = ()
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    usual_entropy: tuple[float, ...] | None = None
    usual_images: int = 0

    @property
    def model(self) -> GlobalModel:
        """The message by which twins look at their data."""
        return GlobalModel(
            self.weights, self.class_names, self.round, self.usual_entropy, self.usual_images
        )

    @property
    def rounds_since_growth(self) -> int:
        """Rounds since the head last grew."""
        return self.round - self.growth_rounds[-1] if self.growth_rounds else self.round


def new_server(network: NetworkConfig, seed: int) -> ServerState:
    """Return a server whose model knows no class."""
    return ServerState(initial_weights(network, seed_for(seed, "weights")), (), network, seed)


def grow_for_new_classes(
    server: ServerState, observations: Sequence[Observation]
) -> tuple[ServerState, tuple[str, ...]]:
    """Add a row for each class that twins announced, before anyone trains: one shape per round.

    Args:
        server: With the old head.
        observations: In the order of the twins; the order of announcement is the order of the rows.

    Returns:
        The server, and the names that were added.
    """
    announced = dict.fromkeys(name for each in observations for name in each.new_class_names)
    added = tuple(name for name in announced if name not in server.class_names)
    if not added:
        return server, ()
    generator = torch.Generator().manual_seed(seed_for(server.seed, "head", *added))
    grown = replace(
        server,
        weights=grow_head(server.weights, len(added), generator),
        class_names=(*server.class_names, *added),
        growth_rounds=(*server.growth_rounds, server.round),
    )
    return grown, added


def with_usual_entropy(server: ServerState, observations: Sequence[Observation]) -> ServerState:
    """Return the server with the mean over twins of the quantiles they reported, each counted by its images; unchanged without reports."""
    reports = [
        (each.usual_entropy, each.num_held_back)
        for each in observations
        if each.usual_entropy is not None
    ]
    if not reports:
        return server
    counts = [count for _, count in reports]
    levels = np.average([levels for levels, _ in reports], axis=0, weights=counts)
    return replace(server, usual_entropy=tuple(levels.tolist()), usual_images=sum(counts))
