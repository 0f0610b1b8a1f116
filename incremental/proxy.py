"""Proxy server: keeps the best global model of a task, which becomes the teacher of the next.

Source: FedKA, section 2.1 (choice of the best old model), after GLFC (Dong et al., CVPR 2022,
section 3.4). Unlike their public code, which keeps the best score over tasks, so that a later model
may never be the best, a score is forgotten when its task ends.
"""

from dataclasses import dataclass
from typing import Literal

import pydantic.dataclasses
from pydantic import ConfigDict

from incremental.head import Weights


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ProxyConfig:
    """How the old model is chosen.

    Args:
        teacher: ``proxy``: the model with the best score of the task, ties to the latest;
            ``last_global``: the task's last one.
    """

    teacher: Literal["proxy", "last_global"] = "proxy"


@dataclass(frozen=True)
class Score:
    """How good a global model is.

    Args:
        value: The score; larger is better.
        test: What it was measured on; scores of different tests are not compared.
    """

    value: float
    test: str


@dataclass(frozen=True)
class StoredModel:
    """A stored global model.

    Args:
        weights: Its weights.
        class_names: Its classes, one per row of the head.
        round: Number of rounds that were aggregated into it.
        score: Its score; none if it was not measured.
    """

    weights: Weights
    class_names: tuple[str, ...]
    round: int
    score: Score | None


class ProxyServer:
    """Holds the best model of the open task, and the old model: the best of the task before.

    Args:
        config: How the old model is chosen.
    """

    def __init__(self, config: ProxyConfig) -> None:
        self.config = config
        self.best: StoredModel | None = None
        self.old_model: StoredModel | None = None

    def consider(self, candidate: StoredModel) -> None:
        """Keep the candidate if it is the best of the open task so far.

        The later model wins ties, and if the two scores are of different tests.
        """
        if not candidate.class_names:
            return
        best = self.best
        if (
            best is None
            or self.config.teacher == "last_global"
            or best.score is None
            or candidate.score is None
            or best.score.test != candidate.score.test
            or candidate.score.value >= best.score.value
        ):
            self.best = candidate

    def close_task(self) -> StoredModel | None:
        """End the open task and return its best model, now the old model; none if it had none."""
        closed, self.best = self.best, None
        if closed is not None:
            self.old_model = closed
        return closed

    def forget_best(self) -> None:
        """Forget the best model of the open task, as one measured before the task was complete."""
        self.best = None
