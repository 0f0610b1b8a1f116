"""Sequential engine: twins one after the other in this process.

A twin is a state, a hospital and the common setting. It is put together only while it works;
between rounds its state rests in a mapping, so that memory does not grow with the twins that
exist. Results do not depend on the engine: what is random is seeded by the messages.
"""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager

from federation.engines.engine import TwinDone, ignore_twin_done
from federation.engines.simulated_hospitals import Hospitals
from incremental.network import frozen_network
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate
from twin.objective import LocalObjective
from twin.state import TwinState


class SequentialEngine:
    """Twins one after the other in this process.

    Args:
        hospitals: The hospitals of the twins.
        states: Where the twins' states rest; none: in a dictionary.
        twin_done: Called when a twin is done.
        explain: Add twin, round and stage to whatever is raised inside a twin (debug engine).
    """

    def __init__(
        self,
        hospitals: Hospitals,
        states: MutableMapping[str, TwinState] | None = None,
        twin_done: TwinDone = ignore_twin_done,
        explain: bool = False,
    ) -> None:
        self._hospitals = hospitals
        self.states: MutableMapping[str, TwinState] = {} if states is None else states
        self._twin_done = twin_done
        self._explain = explain

    def present(self, round_number: int) -> Sequence[str]:
        """Return the twins that take part in a round."""
        return self._hospitals.present(round_number)

    def observe(self, model: GlobalModel, twin_ids: Sequence[str]) -> Iterator[Observation]:
        """Let these twins observe their data; the network is built once."""
        setting, device = self._hospitals.setting, self._hospitals.device
        network = frozen_network(setting.network, model.weights, device)
        for twin_id in twin_ids:
            with self._named(twin_id, model.round, "observe"):
                twin = self._hospitals.twin(twin_id, self.states.get(twin_id))
                observation = twin.observe(model, network)
                self.states[twin_id] = twin.state
            self._twin_done("observe", twin_id)
            yield observation

    def train(
        self, method: LocalObjective, broadcasts: Mapping[str, Broadcast]
    ) -> Iterator[TwinUpdate]:
        """Let these twins train."""
        for twin_id, broadcast in broadcasts.items():
            with self._named(twin_id, broadcast.round, "train"):
                twin = self._hospitals.twin(twin_id, self.states.get(twin_id))
                update = twin.train(broadcast, method)
                self.states[twin_id] = twin.state
            self._twin_done("train", twin_id)
            yield update

    def close(self) -> None:
        """Nothing is held."""

    @contextmanager
    def _named(self, twin_id: str, round_number: int, stage: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._explain:
                error.add_note(f"raised in twin {twin_id}, round {round_number}, stage {stage}")
            raise
