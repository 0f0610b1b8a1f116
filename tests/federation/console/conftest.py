"""Fixtures with copies of the example console."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.federation.console.example_console import World, close, copy_world, make_world


@pytest.fixture(scope="session")
def first_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return the console of which all others are copies; do not change it."""
    return close(make_world(tmp_path_factory.mktemp("first-world")))


@pytest.fixture
def world(first_world: World, tmp_path: Path) -> Iterator[World]:
    """Return a console that the test may change."""
    made = copy_world(first_world, tmp_path)
    yield made
    close(made)


@pytest.fixture(scope="module")
def shared_world(first_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a console that the tests of one file share and do not change."""
    made = copy_world(first_world, tmp_path_factory.mktemp("world"))
    yield made
    close(made)


@pytest.fixture
def world_with(first_world: World, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Return a factory of consoles with other settings."""
    made: list[World] = []

    def make(**changes: object) -> World:
        made.append(copy_world(first_world, tmp_path, **changes))
        return made[-1]

    yield make
    for each in made:
        close(each)
