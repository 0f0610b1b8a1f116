"""Server state between rounds: global model, class list, and when a task began.

Nobody tells the federation a task number. A task begins when twins announce a class that the
server does not know, unless the open task began only a few rounds ago: then the class is a
latecomer of that task. Learning rate, proxy server, prototypes and twins all follow this one rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from federation.seeding import seed_for
from incremental.head import Weights, grow_head
from incremental.network import NetworkConfig, initial_weights
from twin.messages import GlobalModel, Observation

SETTLE_ROUNDS = 2  # default of ServerState.settle_rounds


@dataclass(frozen=True)
class ServerState:
    """The server between two rounds.

    Args:
        weights: The global model.
        class_names: One for each row of its head.
        network: The network of the weights.
        seed: The run's seed.
        settle_rounds: Classes announced up to this many rounds after a task began belong to it.
        round: Number of finished rounds.
        task_begins: Rounds in which a task began, from 0; their number is the server's own count
            of tasks.
        kept: Tensors that the method's server half keeps.
        usual_entropy: Mean over twins of the quantiles of entropies of known images [nats].
        usual_images: Number of images behind ``usual_entropy``.
    """

    weights: Weights
    class_names: tuple[str, ...]
    network: NetworkConfig
    seed: int
    settle_rounds: int = SETTLE_ROUNDS
    round: int = 0
    task_begins: tuple[int, ...] = ()
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    usual_entropy: tuple[float, ...] | None = None
    usual_images: int = 0

    @property
    def task(self) -> int:
        """Number of the open task, from 1; 0 before the first class."""
        return len(self.task_begins)

    @property
    def rounds_since_task_began(self) -> int:
        """Rounds since the open task began."""
        return self.round - self.task_begins[-1] if self.task_begins else self.round

    @property
    def task_of_new_classes(self) -> int:
        """Number of the task of classes that are announced in this round: the open or the next."""
        joins = bool(self.task_begins) and self.rounds_since_task_began <= self.settle_rounds
        return self.task if joins else self.task + 1

    @property
    def model(self) -> GlobalModel:
        """The message with which twins observe their data."""
        return GlobalModel(
            self.weights,
            self.class_names,
            self.round,
            self.usual_entropy,
            self.usual_images,
            task=self.task,
            task_of_new_classes=self.task_of_new_classes,
        )


def new_server(
    network: NetworkConfig, seed: int, settle_rounds: int = SETTLE_ROUNDS
) -> ServerState:
    """Return a server whose model knows no class."""
    weights = initial_weights(network, seed_for(seed, "weights"))
    return ServerState(weights, (), network, seed, settle_rounds)


def grow_for_new_classes(
    server: ServerState, observations: Sequence[Observation]
) -> tuple[ServerState, tuple[str, ...]]:
    """Add a head row for each class that twins announced, and begin a task where it is time.

    Args:
        server: With the old head.
        observations: In the order of the twins; the order of announcement is that of the rows.

    Returns:
        The server, and the names that were added.
    """
    announced = dict.fromkeys(name for each in observations for name in each.new_class_names)
    added = tuple(name for name in announced if name not in server.class_names)
    if not added:
        return server, ()
    generator = torch.Generator().manual_seed(seed_for(server.seed, "head", *added))
    begins = (server.round,) if server.task_of_new_classes > server.task else ()
    grown = replace(
        server,
        weights=grow_head(server.weights, len(added), generator),
        class_names=(*server.class_names, *added),
        task_begins=(*server.task_begins, *begins),
    )
    return grown, added


def with_usual_entropy(server: ServerState, observations: Sequence[Observation]) -> ServerState:
    """Return the server with the mean over twins of the entropy quantiles they reported.

    Each twin counts by its images; without reports the server is unchanged.
    """
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
