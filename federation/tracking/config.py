"""Settings of tracking: where runs and models are recorded."""

import pydantic.dataclasses
from pydantic import ConfigDict

from incremental.model_store import check_uri


class TrackingError(ValueError):
    """A run that cannot be uploaded: what, got, allowed, what to do."""


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TrackingConfig:
    """Where runs and models are recorded.

    Args:
        enabled: Copy runs to MLflow; the run folder is written anyway.
        uri: ``sqlite:///path/to/mlflow.db`` or ``http(s)://host:port``; none: ``mlflow.db`` beside
            the run folder.
        experiment: MLflow's name for a group of runs.
        registered_model: Name under which models are registered. Use one per data set, because a
            new champion must know all classes of the last one.
        minimum_accuracy: Least accuracy of a champion, in [0, 1].
        system_metrics: Record the load of processor, memory and disk after each round.
        timeout_seconds: Longest wait for an answer of a server.
        retry_seconds: Pause after a server did not answer.
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str = "fedka"
    registered_model: str = "fedka"
    minimum_accuracy: float = 0.0
    system_metrics: bool = True
    timeout_seconds: int = 10
    retry_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.uri is not None:
            check_uri(self.uri)
        if not 0 <= self.minimum_accuracy <= 1:
            raise ValueError(f"minimum_accuracy is {self.minimum_accuracy}; allowed: 0 to 1")
        if self.timeout_seconds < 1 or self.retry_seconds < 0:
            raise ValueError(
                f"timeout_seconds is {self.timeout_seconds} and retry_seconds "
                f"{self.retry_seconds}; allowed: 1 or more and 0 or more"
            )
        for name in ("experiment", "registered_model"):
            value = getattr(self, name)
            if not value or any(letter in value for letter in "/:'\""):
                raise ValueError(f"{name} is {value!r}; allowed: a name without / : and quotes")
