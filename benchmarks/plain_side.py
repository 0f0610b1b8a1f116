"""Builds the plain reference's inputs of a round: the images, twins and weights that ours used."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from torch import Tensor

from benchmarks.reference import PlainNetwork, PlainTask
from benchmarks.reference_round import Archived, PlainRules, PlainTwin, Search
from benchmarks.round_world import FinishedRound, Snapshot, World
from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.experiment.config import ExperimentConfig
from federation.methods.fedka import FedKA
from incremental.network import IncrementalNetwork, build_network
from twin.state import TwinState


def plain_side(
    world: World, before: Snapshot, ran: FinishedRound, search: Search, invert_steps: int
) -> tuple[Any, ...]:
    """Return the arguments of ``plain_round`` for the round that ours ran."""
    method, config = cast(FedKA, world.config.method), world.config
    assert method.reconstruction is not None
    broadcasts = ran.engine.broadcasts
    names = next(iter(broadcasts.values())).class_names
    twins, order = [], list(ran.engine.after_observing)
    for twin_id in order:
        earlier, state = before.states.get(twin_id), ran.engine.after_observing[twin_id]
        twins.append(_plain_twin(world.hospitals, earlier, state, names, method))
    first = next(iter(broadcasts.values()))
    rate = config.training.learning_rate
    rules = PlainRules(
        config.network,
        config.training.epochs,
        config.training.batch_size,
        rate,
        method.reconstruction.perturb_steps,
        method.reconstruction.perturb_rate,
        invert_steps or (250 if search == "lbfgs" else method.reconstruction.invert_steps),
        method.reconstruction.public_seed,
        method.reconstruction.stop_below,
        search,
    )
    judged = None
    if "prototype_images" in before.server.kept:
        judged = (before.server.kept["prototype_images"], before.server.kept["prototype_rows"])
    teacher = None if first.old_model is None else _plain_network(config, first.old_model.weights)
    return (
        _plain_network(config, before.server.weights),
        _plain_network(config, first.weights),
        teacher,
        twins,
        [order.index(twin_id) for twin_id in broadcasts],
        judged,
        rules,
    )


def _plain_network(config: ExperimentConfig, weights: Mapping[str, Tensor]) -> PlainNetwork:
    network: IncrementalNetwork = build_network(config.network, dict(weights))
    return PlainNetwork(network)


def _plain_twin(
    hospitals: SimulatedHospitals,
    earlier: TwinState | None,
    state: TwinState,
    names: tuple[str, ...],
    method: FedKA,
) -> PlainTwin:
    archive = hospitals.archive
    row = np.array([names.index(name) if name in names else -1 for name in archive.vocabulary])
    exemplars = state.memory.all_positions()
    finished = [
        tuple(names.index(name) for name in group if name not in state.current_names)
        for group in state.finished
    ]
    groups = (*finished, tuple(names.index(name) for name in state.current_names))
    archived = []
    if earlier is not None and len(state.finished) > len(earlier.finished):
        room = state.memory.per_class(len(state.memory.positions))
        for name in earlier.current_names:
            own = earlier.current[archive.labels[earlier.current] == archive.vocabulary.index(name)]
            archived.append(Archived(archive.images[own], room))
    return PlainTwin(
        archive.images[state.current],
        row[archive.labels[state.current]],
        archive.images[exemplars],
        row[archive.labels[exemplars]],
        PlainTask(
            groups, method.classification_weight, method.semantic_weight, method.attention_weight
        ),
        archived,
        state.fresh_task,
    )
