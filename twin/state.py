"""State of a twin between rounds, as one value that can be saved."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from incremental.weight_tensors import labelled, with_label
from twin.memory import ExemplarMemory
from twin.privacy.differential_privacy import PrivacySpent

Positions = NDArray[np.int64]
NOTHING: Positions = np.empty(0, np.int64)


@dataclass(frozen=True)
class TwinState:
    """A twin between two rounds.

    Args:
        memory: Exemplars of finished classes.
        observed_until: Last round in which the twin read its hospital's stream; -1 before the
            first.
        inbox: Arrived images of classes that the federation does not know yet.
        current: Images of the current task.
        held_back: Images of the current task that are never trained on.
        current_names: Classes of the current task.
        began_round: Round in which the current task began; -1 before the first.
        task: The federation's number of the current task; 0 before the first.
        finished: Classes of each finished task, oldest first.
        previous_mean: Mean entropy at the last observation [nats].
        fresh_task: Whether a task began and the twin has not trained since.
        kept: What the method's local half and compression kept.
        entropy_history: (round, entropy as a fraction of ln C, signal) of each observation that had
            images.
        events: {"round", "what"} of each event, oldest first.
        model_round: Round of the global model received last; -1 before the first.
        model_names: Classes of that model, which are the twin's desired state.
        privacy: Privacy spent by its updates.
    """

    memory: ExemplarMemory
    observed_until: int = -1
    inbox: Positions = field(default_factory=lambda: NOTHING)
    current: Positions = field(default_factory=lambda: NOTHING)
    held_back: Positions = field(default_factory=lambda: NOTHING)
    current_names: tuple[str, ...] = ()
    began_round: int = -1
    task: int = 0
    finished: tuple[tuple[str, ...], ...] = ()
    previous_mean: float | None = None
    fresh_task: bool = False
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    entropy_history: tuple[tuple[int, float, bool], ...] = ()
    events: tuple[Mapping[str, Any], ...] = ()
    model_round: int = -1
    model_names: tuple[str, ...] = ()
    privacy: tuple[PrivacySpent, ...] = ()

    @property
    def last_round(self) -> int:
        """Last round in which the state changed, by an observation or training; -1 before it."""
        return max(self.observed_until, self.model_round)

    def with_event(self, round_number: int, what: str) -> "TwinState":
        """Return the state with one more event."""
        event: Mapping[str, Any] = {"round": round_number, "what": what}
        return replace(self, events=(*self.events, event))


def to_plain(state: TwinState) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a twin's state as plain data for JSON and tensors for safetensors."""
    plain = {
        "capacity": state.memory.capacity,
        "memory_names": list(state.memory.positions),
        "observed_until": state.observed_until,
        "current_names": list(state.current_names),
        "began_round": state.began_round,
        "task": state.task,
        "finished": [list(names) for names in state.finished],
        "previous_mean": state.previous_mean,
        "fresh_task": state.fresh_task,
        "entropy_history": [list(each) for each in state.entropy_history],
        "events": [dict(event) for event in state.events],
        "model_round": state.model_round,
        "model_names": list(state.model_names),
        "privacy": [asdict(each) for each in state.privacy],
    }
    tensors = {
        name: torch.from_numpy(getattr(state, name)) for name in ("inbox", "current", "held_back")
    }
    tensors |= {
        f"memory/{index}": torch.from_numpy(each.copy())
        for index, each in enumerate(state.memory.positions.values())
    }
    return plain, {**tensors, **labelled("kept", state.kept)}


def from_plain(plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TwinState:
    """Return the state from what ``to_plain`` returned."""
    exemplars = {
        name: tensors[f"memory/{index}"].numpy() for index, name in enumerate(plain["memory_names"])
    }
    return TwinState(
        memory=ExemplarMemory(plain["capacity"], exemplars),
        observed_until=plain["observed_until"],
        inbox=tensors["inbox"].numpy(),
        current=tensors["current"].numpy(),
        held_back=tensors["held_back"].numpy(),
        current_names=tuple(plain["current_names"]),
        began_round=plain["began_round"],
        task=plain["task"],
        finished=tuple(tuple(names) for names in plain["finished"]),
        previous_mean=plain["previous_mean"],
        fresh_task=plain["fresh_task"],
        kept=with_label("kept", tensors),
        entropy_history=tuple(
            (int(at), float(value), bool(signal)) for at, value, signal in plain["entropy_history"]
        ),
        events=tuple(plain["events"]),
        model_round=plain["model_round"],
        model_names=tuple(plain["model_names"]),
        # Older files have no such key.
        privacy=tuple(PrivacySpent(**each) for each in plain.get("privacy", ())),
    )
