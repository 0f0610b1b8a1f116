"""A database in a temporary folder, a clock that is set by hand, people.

Images without pixels.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from twin.review.accounts import Accounts
from twin.review.cases import CaseImage, CaseSummary
from twin.review.store import ReviewStore
from twin.review.workflow import Actor, Role


class HandClock:
    """A clock that somebody sets."""

    def __init__(self) -> None:
        self.now = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **time: float) -> None:
        """Let time pass, as ``timedelta`` counts it."""
        self.now += timedelta(**time)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "console.sqlite"


@pytest.fixture
def url(database: Path) -> str:
    return f"sqlite:///{database}"


@pytest.fixture
def store(url: str, clock: HandClock) -> ReviewStore:
    return ReviewStore(url, clock)


@pytest.fixture
def hasher() -> PasswordHasher:
    return PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def accounts(url: str, clock: HandClock, hasher: PasswordHasher) -> Accounts:
    return Accounts(url, clock, hasher=hasher)


@pytest.fixture(scope="session")
def people() -> dict[str, Actor]:
    roles = {
        "anna": Role.CLINICIAN,
        "berta": Role.CLINICIAN,
        "carl": Role.APPROVER,
        "dora": Role.OPERATOR,
        "emil": Role.AUDITOR,
    }
    return {user: Actor(user, role) for user, role in roles.items()}


@pytest.fixture(scope="session")
def make_images() -> Callable[..., list[CaseImage]]:
    def make(count: int, start: int = 0) -> list[CaseImage]:
        return [
            CaseImage(
                f"image-{index:05d}",
                entropy=(index * 37 % 100) / 100,
                top=(("liver", 0.5), ("spleen", 0.25)),
                distance=(index * 61 % 100) / 10,
                arrived=f"2031-05-01T00:00:00.{index % 1000:03d}+00:00",
            )
            for index in range(start, start + count)
        ]

    return make


@pytest.fixture(scope="session")
def summary() -> CaseSummary:
    return CaseSummary(
        num_images=3,
        mean_entropy=0.8,
        nearest=(("liver", 0.75), ("spleen", 0.5)),
        nearest_exemplars={"liver": ("exemplar-1", "exemplar-2"), "spleen": ()},
        entropy_histogram=tuple(range(20)),
        usual_histogram=tuple(range(20, 0, -1)),
        score_name="entropy",
        threshold=0.6,
        model_version="7",
        representative=("image-00000", "image-00002"),
    )
