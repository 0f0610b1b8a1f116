"""Tasks of a twin: accept arrivals, begin a task, archive the one before it.

A twin archives its current task and begins the next one when it detects new classes, or when its
arrivals have classes of the federation that are new to the twin. Which classes form one task is
decided by the server (``federation.server``) and arrives with the global model.
"""

from dataclasses import replace

import numpy as np

from incremental.network import IncrementalNetwork
from twin.config import TwinConfig
from twin.hospital_view import HospitalView
from twin.memory import herd
from twin.messages import GlobalModel
from twin.state import NOTHING, TwinState


def accept_arrivals(
    state: TwinState,
    view: HospitalView,
    config: TwinConfig,
    network: IncrementalNetwork,
    model: GlobalModel,
    announced: tuple[str, ...],
) -> TwinState:
    """Move images of known and announced classes from the inbox into the current task.

    A task begins if one of the classes is new to the twin.

    Args:
        state: State of the twin.
        view: View of its hospital.
        config: Share of the images to hold back.
        network: The global model, whose features select the exemplars of the task that ends.
        model: The global model's class names, round and task.
        announced: Classes that this twin asks the federation to add.
    """
    is_known = view.known(state.inbox, (*model.class_names, *announced))
    arrivals, waiting = state.inbox[is_known], state.inbox[~is_known]
    if not len(arrivals):
        return state
    if not set(view.names(arrivals)) <= set(state.current_names):
        state = begin_task(state, view, network, model, view.names(arrivals), announced)
    # Sorted by class, to hold back the same share of each class.
    arrivals = arrivals[np.argsort(view.hospital.labels(arrivals), kind="stable")]
    steps = np.floor(np.arange(len(arrivals) + 1) * config.held_back_fraction + 1e-9)
    held = np.diff(steps) > 0
    return replace(
        state,
        inbox=waiting,
        current=np.concatenate([state.current, arrivals[~held]]),
        held_back=np.concatenate([state.held_back, arrivals[held]]),
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

    If the classes belong to the same task of the federation as the current ones, they join them:
    archiving in between would leave exemplars of images that were hardly trained on.
    """
    task = model.task_of_new_classes if announced else model.task
    joins = bool(state.current_names) and task == state.task
    archived = state if joins else archive(state, view, network, model.round)
    how = (
        f"detected {', '.join(announced)}"
        if announced
        else "learned from the class list of others' detection"
    )
    what = f"{'task grows' if joins else 'new task'}: {', '.join(names)} ({how})"
    return replace(
        archived.with_event(model.round, what),
        current_names=tuple(dict.fromkeys((*archived.current_names, *names))),
        began_round=state.began_round if joins else model.round,
        task=task,
        fresh_task=bool(announced) or (joins and state.fresh_task),
    )


def archive(
    state: TwinState, view: HospitalView, network: IncrementalNetwork, round_number: int
) -> TwinState:
    """End the current task: keep its best exemplars and forget its other images."""
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
    return ended.with_event(
        round_number,
        f"archived {', '.join(state.current_names)}: {len(memory)} exemplars in memory",
    )


def rows_by_task(state: TwinState, class_names: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the head's rows of each of the twin's tasks, the current one last."""
    row = {name: index for index, name in enumerate(class_names)}
    current = set(state.current_names)
    groups = [[name for name in names if name not in current] for names in state.finished]
    groups.append(list(state.current_names))
    return tuple(tuple(row[name] for name in names if name in row) for names in groups)
