"""A catalogue in a database of its own, with a clock that advances a second per call."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from federation.catalogue.class_catalogue import ClassCatalogue


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'console.sqlite'}"


@pytest.fixture
def catalogue(url: str) -> ClassCatalogue:
    moments: Iterator[datetime] = (
        datetime(2024, 2, 19, 8, tzinfo=UTC) + timedelta(seconds=each) for each in range(1000)
    )
    return ClassCatalogue(url, lambda: next(moments))
