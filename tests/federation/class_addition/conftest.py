"""One federation and two class additions that many tests only read."""

from pathlib import Path

import pytest

from tests.federation.class_addition.example_federation import ExampleFederation, run


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> ExampleFederation:
    return ExampleFederation(tmp_path_factory.mktemp("federation")).fill()


@pytest.fixture(scope="session")
def first(federation: ExampleFederation) -> Path:
    path = federation.job("first", None)
    assert run(path)["ok"]
    return path


@pytest.fixture(scope="session")
def second(federation: ExampleFederation, first: Path) -> Path:
    path = federation.job("second", first / "candidate", federation.approved())
    assert run(path)["ok"]
    return path
