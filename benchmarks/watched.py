"""Clocks around our own objects.

A round runs as it always does, and the seconds of its stages are known.
"""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from benchmarks.reference_round import Stages
from federation.engines.engine import TwinEngine
from federation.engines.sequential import SequentialEngine
from twin.messages import Broadcast, GlobalModel
from twin.state import TwinState


class Watched:
    """An object some of whose methods are timed.

    Args:
        inner: The object.
        names: The methods.
        seconds: Where their seconds are added.
    """

    def __init__(self, inner: object, names: Sequence[str], seconds: Stages) -> None:
        self.inner, self._names, self._seconds = inner, names, seconds

    def __getattr__(self, name: str) -> Any:
        """Return the inner object's attribute, timed where asked for."""
        value = getattr(self.inner, name)
        if name not in self._names:
            return value

        def timed(*args: Any) -> Any:
            started = perf_counter()
            result = value(*args)
            self._seconds[name] = self._seconds.get(name, 0.0) + perf_counter() - started
            return result

        return timed


class WatchedEngine:
    """An engine whose two verbs are timed, and which remembers what it was told.

    Args:
        inner: The engine.
        seconds: Where seconds are added.
    """

    def __init__(self, inner: TwinEngine, seconds: Stages) -> None:
        self.inner, self._seconds = inner, seconds
        self.after_observing: dict[str, TwinState] = {}
        self.broadcasts: Mapping[str, Broadcast] = {}

    def present(self, round_number: int) -> Sequence[str]:
        """Return who takes part."""
        return self.inner.present(round_number)

    def observe(self, model: GlobalModel, twin_ids: Sequence[str]) -> Any:
        """Let these twins look."""
        started = perf_counter()
        observations = list(self.inner.observe(model, twin_ids))
        self._seconds["observe"] = perf_counter() - started
        self.after_observing = dict(self.inner.states)
        return observations

    def train(self, method: Any, broadcasts: Mapping[str, Broadcast]) -> Any:
        """Let these twins train.

        The prototypes that they make at the end are timed by themselves.
        """
        self.broadcasts = broadcasts
        objective, own = method.inner, {"finish_local": 0.0}
        if isinstance(self.inner, SequentialEngine):  # into a worker process no clock can be sent
            objective = Watched(objective, ("finish_local",), own)
        started = perf_counter()
        updates = list(self.inner.train(objective, broadcasts))
        self._seconds["prototypes"] = own["finish_local"]
        self._seconds["train"] = perf_counter() - started - own["finish_local"]
        return updates
