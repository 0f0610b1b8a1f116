"""Secure aggregation in a simulation: an engine whose updates reach the server as one sum.

For simulations: both halves of the protocol run in this process, so it protects nothing here; it
shows what a deployment with secure aggregation would learn, and costs. In a deployment the
hospitals' halves run at the hospitals.
"""

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

from federation.aggregation.means import Mean
from federation.aggregation.secure_sum import SecureAggregationConfig, SecureSum, Verb, secure_sum
from federation.engines.engine import TwinEngine
from federation.method import Method
from federation.round import RoundConfig
from twin.messages import Broadcast, GlobalModel, Observation, TwinUpdate
from twin.secure_sum.masking import Masker, MaskingConfig
from twin.state import TwinState


class SecureEngine:
    """Returns one update for all twins that trained, or none where there was no sum.

    Args:
        engine: Where twins run.
        config: Limits of the sum.
        mean: How twins count in the method's aggregate.
        masking: What each hospital insists on.
    """

    def __init__(
        self,
        engine: TwinEngine,
        config: SecureAggregationConfig,
        mean: Mean,
        masking: MaskingConfig | None = None,
    ) -> None:
        self._engine = engine
        self._config = config
        self._mean: Mean = mean
        self._masking = masking
        self._maskers: dict[str, Masker] = {}
        self.last: SecureSum | None = None

    @property
    def states(self) -> MutableMapping[str, TwinState]:
        """Where each twin that has looked stands."""
        return self._engine.states

    def present(self, round_number: int) -> Sequence[str]:
        """Return who takes part in a round."""
        return self._engine.present(round_number)

    def observe(self, model: GlobalModel, twin_ids: Sequence[str]) -> Iterable[Observation]:
        """Let these twins look at their data."""
        return self._engine.observe(model, twin_ids)

    def train(self, method: Method, broadcasts: Mapping[str, Broadcast]) -> Iterable[TwinUpdate]:
        """Let these twins train, and return the mean of their models; ``last`` says more."""
        self.last = secure_sum(broadcasts, self._mean, self._config, partial(self._ask, method))
        return [] if self.last.update is None else [self.last.update]

    def close(self) -> None:
        """Let go of what the engine holds."""
        self._engine.close()

    def _ask(self, method: Method, verb: Verb, messages: Mapping[str, Any]) -> Mapping[str, Any]:
        if verb == "seal":
            updates = list(self._engine.train(method, messages))
            self._maskers = {each.twin_id: Masker(each.twin_id, self._masking) for each in updates}
            return {
                each.twin_id: _answer(
                    self._maskers[each.twin_id].seal, each, messages[each.twin_id].weights
                )
                for each in updates
            }
        maskers = {twin_id: self._maskers[twin_id] for twin_id in messages}
        return {
            twin_id: _answer(masker.mask if verb == "mask" else masker.open, messages[twin_id])
            for twin_id, masker in maskers.items()
        }


def secured(engine: TwinEngine, config: RoundConfig, mean: Mean | None) -> TwinEngine:
    """Return an engine as it is, or inside one that sums in secret where that is configured.

    Args:
        engine: Where twins run.
        config: Limits of the sum, and of the change that a hospital lets out.
        mean: ``Method.sums``.

    Raises:
        ValueError: If the method cannot be summed: nothing is let through in the open that was to
            be secret.
    """
    secure = config.secure_aggregation
    if secure is None:
        return engine
    if mean is None:
        raise ValueError(
            "secure aggregation is on and the method reads single updates; allowed: a method whose "
            "sums is a mean"
        )
    return SecureEngine(
        engine,
        secure,
        mean,
        MaskingConfig(secure.minimum_hospitals, config.screening.max_relative_change),
    )


def _answer(half: Callable[..., Any], *message: Any) -> Any:
    """Return a hospital's answer, or its refusal as the transport would hand it over."""
    try:
        return half(*message)
    except ValueError as refusal:
        return refusal
