"""Proxy server: scores global models, keeps the best, and holds the old model that teaches.

Source: FedKA, section 2.1 (choice of the best old model), after GLFC (Dong et al., CVPR 2022,
section 3.4). Where public code of that line carries the best score from one task into the next, so
that a later model may never be called best, a closed task's score is forgotten here.
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
        value: Larger is better.
        test: Names what it was measured on; scores of different tests are never compared.
    """

    value: float
    test: str


@dataclass(frozen=True)
class StoredModel:
    """A global model that was kept.

    Args:
        weights: Its weights.
        class_names: Its classes, one per row of the head.
        round: Rounds that had been aggregated into it.
        score: What it scored; none where nothing was measured.
    """

    weights: Weights
    class_names: tuple[str, ...]
    round: int
    score: Score | None


class ProxyServer:
    """Keeps the best model of the open task and the old model, best of the task before.

    Args:
        config: How the old model is chosen.
    """

    def __init__(self, config: ProxyConfig) -> None:
        self.config = config
        self.best: StoredModel | None = None
        self.old_model: StoredModel | None = None

    def consider(self, candidate: StoredModel) -> None:
        """Keep the candidate if it is the best of the open task so far.

        Ties go to the later model; so does a candidate whose score was measured on another test
        than the best one's.
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
        """End the open task: its best model becomes the old model, and its score is forgotten.

        Returns:
            The new old model; none where nothing was kept.
        """
        closed, self.best = self.best, None
        if closed is not None:
            self.old_model = closed
        return closed

    def forget_best(self) -> None:
        """Forget the best model of the open task: it was measured before the task was complete."""
        self.best = None
