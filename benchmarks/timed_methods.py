"""Wrappers that time the methods of our engine and method during an ordinary round."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from benchmarks.reference_round import Stages
from federation.engines.engine import TwinEngine
from federation.engines.sequential import SequentialEngine
from twin.messages import Broadcast, GlobalModel
from twin.state import TwinState


class TimedMethods:
    """An object of which some methods are timed.

    Args:
        inner: The object.
        names: Names of the timed methods.
        seconds: Mapping to which their seconds are added.
    """

    def __init__(self, inner: object, names: Sequence[str], seconds: Stages) -> None:
        self.inner, self._names, self._seconds = inner, names, seconds

    def __getattr__(self, name: str) -> Any:
        """Return the inner object's attribute, wrapped with a timer if it is a timed method."""
        value = getattr(self.inner, name)
        if name not in self._names:
            return value

        def timed(*args: Any) -> Any:
            started = perf_counter()
            result = value(*args)
            self._seconds[name] = self._seconds.get(name, 0.0) + perf_counter() - started
            return result

        return timed


class TimedEngine:
    """An engine whose stages are timed, and which keeps its broadcasts and observed states.

    Args:
        inner: The engine.
        seconds: Mapping to which seconds are added.
    """

    def __init__(self, inner: TwinEngine, seconds: Stages) -> None:
        self.inner, self._seconds = inner, seconds
        self.after_observing: dict[str, TwinState] = {}
        self.broadcasts: Mapping[str, Broadcast] = {}

    def present(self, round_number: int) -> Sequence[str]:
        """Return the ids of the twins that take part."""
        return self.inner.present(round_number)

    def observe(self, model: GlobalModel, twin_ids: Sequence[str]) -> Any:
        """Return the observations of these twins, timed."""
        started = perf_counter()
        observations = list(self.inner.observe(model, twin_ids))
        self._seconds["observe"] = perf_counter() - started
        self.after_observing = dict(self.inner.states)
        return observations

    def train(self, method: Any, broadcasts: Mapping[str, Broadcast]) -> Any:
        """Train these twins, timed; making prototypes at the end is timed separately."""
        self.broadcasts = broadcasts
        objective, own = method.inner, {"finish_local": 0.0}
        if isinstance(self.inner, SequentialEngine):  # a timer cannot be sent to a worker process
            objective = TimedMethods(objective, ("finish_local",), own)
        started = perf_counter()
        updates = list(self.inner.train(objective, broadcasts))
        self._seconds["prototypes"] = own["finish_local"]
        self._seconds["train"] = perf_counter() - started - own["finish_local"]
        return updates
