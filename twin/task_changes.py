"""How a twin's life falls into tasks: what it takes in, when a new task begins, and what stays of the last one. State in, state out.

A twin that detects new classes archives its present task and begins the next one; so does one that finds its arrivals' classes on the
federation's list. Nobody tells it a task's number. Knows no server and no training.
"""

from dataclasses import replace

import numpy as np

from incremental.network import IncrementalNetwork
from twin.config import TwinConfig
from twin.hospital_view import HospitalView
from twin.memory import herd
from twin.state import NOTHING, TwinState


def take_in(
    state: TwinState,
    view: HospitalView,
    config: TwinConfig,
    network: IncrementalNetwork,
    round_number: int,
    class_names: tuple[str, ...],
    announced: tuple[str, ...],
) -> TwinState:
    """Move from the inbox what the federation knows or is being told about; begin a new task where its classes are new to the twin.

    Args:
        state: The twin's.
        view: Of its hospital.
        config: How long a task is young, and what share of it is held back.
        network: The global model, which picks the exemplars of the task that ends.
        round_number: When.
        class_names: What the federation knows.
        announced: What this twin asks it to add.
    """
    accepted = view.known(state.inbox, (*class_names, *announced))
    taken, waiting = state.inbox[accepted], state.inbox[~accepted]
    if not len(taken):
        return state
    if not set(view.names(taken)) <= set(state.current_names):
        state = begin_task(state, view, config, network, round_number, view.names(taken), announced)
    taken = taken[
        np.argsort(view.hospital.labels(taken), kind="stable")
    ]  # so that each class is held back alike
    steps = np.floor(np.arange(len(taken) + 1) * config.held_back_fraction + 1e-9)
    held = np.diff(steps) > 0
    return replace(
        state,
        inbox=waiting,
        current=np.concatenate([state.current, taken[~held]]),
        held_back=np.concatenate([state.held_back, taken[held]]),
    )


def begin_task(
    state: TwinState,
    view: HospitalView,
    config: TwinConfig,
    network: IncrementalNetwork,
    round_number: int,
    names: tuple[str, ...],
    announced: tuple[str, ...],
) -> TwinState:
    """Archive the present task and begin one with these classes; a task that has only just begun takes them in instead.

    Classes of one task may be noticed a round or two apart: archiving between would leave exemplars of images hardly learned from.
    """
    young = bool(state.current_names) and round_number - state.began_round <= config.settle_rounds
    archived = state if young else archive(state, view, network, round_number)
    how = (
        f"detected {', '.join(announced)}"
        if announced
        else "learned from the class list of others' detection"
    )
    noted = archived.noted(
        round_number, f"{'task grows' if young else 'new task'}: {', '.join(names)} ({how})"
    )
    return replace(
        noted,
        current_names=tuple(dict.fromkeys((*noted.current_names, *names))),
        began_round=state.began_round if young else round_number,
        fresh_task=bool(announced) or (young and state.fresh_task),
    )


def archive(
    state: TwinState, view: HospitalView, network: IncrementalNetwork, round_number: int
) -> TwinState:
    """End the present task: its best exemplars go into the memory, its other images leave the mirror."""
    if not state.current_names:
        return state
    room = state.memory.per_class(len({*state.memory.positions, *state.current_names}))
    ranked = {}
    for name in state.current_names:
        own = view.of_class(state.current, name)
        ranked[name] = own[herd(view.features(network, own), room)]
    memory = state.memory.with_classes(ranked)
    ended = replace(
        state,
        memory=memory,
        current=NOTHING,
        held_back=NOTHING,
        finished=(*state.finished, state.current_names),
        current_names=(),
    )
    return ended.noted(
        round_number,
        f"archived {', '.join(state.current_names)}: {len(memory)} exemplars in memory",
    )


def groups_of_rows(state: TwinState, class_names: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the rows of the head that belong to each of the twin's tasks, the present one last."""
    row = {name: index for index, name in enumerate(class_names)}
    current = set(state.current_names)
    groups = [[name for name in names if name not in current] for names in state.finished]
    groups.append(list(state.current_names))
    return tuple(tuple(row[name] for name in names if name in row) for names in groups)
