"""Tasks of a twin: take in arrivals, begin a task, archive the one before it.

A twin that detects new classes archives its present task and begins the next one; so does a twin
whose arrivals have classes on the federation's list that are new to the twin. Which classes belong
to one task is the federation's rule (``federation.server``), which arrives with the global model.
"""

from dataclasses import replace

import numpy as np

from incremental.network import IncrementalNetwork
from twin.config import TwinConfig
from twin.hospital_view import HospitalView
from twin.memory import herd
from twin.messages import GlobalModel
from twin.state import NOTHING, TwinState


def take_in(
    state: TwinState,
    view: HospitalView,
    config: TwinConfig,
    network: IncrementalNetwork,
    model: GlobalModel,
    announced: tuple[str, ...],
) -> TwinState:
    """Move images of known and announced classes from the inbox into the current task.

    Begins a task where a class is new to the twin.

    Args:
        state: The twin's.
        view: Of its hospital.
        config: Says what share of the images is held back.
        network: The global model, which picks the exemplars of the task that ends.
        model: Message of the global model: class names, round and task.
        announced: Classes that this twin asks the federation to add.
    """
    accepted = view.known(state.inbox, (*model.class_names, *announced))
    taken, waiting = state.inbox[accepted], state.inbox[~accepted]
    if not len(taken):
        return state
    if not set(view.names(taken)) <= set(state.current_names):
        state = begin_task(state, view, network, model, view.names(taken), announced)
    # Sorted by class, so that the same share of each class is held back.
    taken = taken[np.argsort(view.hospital.labels(taken), kind="stable")]
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
    network: IncrementalNetwork,
    model: GlobalModel,
    names: tuple[str, ...],
    announced: tuple[str, ...],
) -> TwinState:
    """Archive the current task and begin one with these classes.

    Classes of the federation's open task join the current task instead, if that is the same one:
    archiving between them would leave exemplars of images that were hardly trained on.
    """
    task = model.task_of_new_classes if announced else model.task
    joins = bool(state.current_names) and task == state.task
    archived = state if joins else archive(state, view, network, model.round)
    how = (
        f"detected {', '.join(announced)}"
        if announced
        else "learned from the class list of others' detection"
    )
    noted = archived.noted(
        model.round, f"{'task grows' if joins else 'new task'}: {', '.join(names)} ({how})"
    )
    return replace(
        noted,
        current_names=tuple(dict.fromkeys((*noted.current_names, *names))),
        began_round=state.began_round if joins else model.round,
        task=task,
        fresh_task=bool(announced) or (joins and state.fresh_task),
    )


def archive(
    state: TwinState, view: HospitalView, network: IncrementalNetwork, round_number: int
) -> TwinState:
    """End the present task.

    Its best exemplars go into the memory, its other images leave the mirror.
    """
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
