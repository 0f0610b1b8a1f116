"""Fixtures of data sets: a private cache, tiny data sheets, and a local web server."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from physical.datasets import download
from physical.datasets.dataset import DataFile, DataSheet, Source, new_md5

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(autouse=True)
def private_places(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.node.get_closest_marker("data"):  # these want the real cache
        return
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDKA_DATA", raising=False)
    monkeypatch.setattr(download, "LAB_FOLDER", tmp_path / "no-lab")


@pytest.fixture
def file_of() -> Callable[[str, bytes], DataFile]:
    return lambda name, content: DataFile(name, new_md5((content,)), len(content))


@pytest.fixture
def sheet_of() -> Callable[..., DataSheet]:
    def make(
        files: tuple[DataFile, ...], sources: tuple[Source, ...] = (), **changes: Any
    ) -> DataSheet:
        facts: dict[str, Any] = {
            "name": "tiny",
            "title": "Tiny",
            "source": "https://tiny.example",
            "licence": "CC0",
            "citation": "nobody",
            "description": "two classes of 4 x 4 pixels",
            "class_names": ("cat", "dog"),
            "counts": {"train": 4, "validation": 2, "test": 2},
            "image_size": (4, 4, 1),
            "has_left_and_right": False,
        }
        return DataSheet(**(facts | changes), files=files, sources=sources)

    return make


@pytest.fixture
def tiny_arrays() -> Arrays:
    rng = np.random.default_rng(0)
    arrays: Arrays = {}
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 4, 4), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % 2)[:, None]
    return arrays


@dataclass
class Web:
    """A web server of this machine: what it serves, how it misbehaves, and what it was asked."""

    address: str = ""
    content: bytes = b""
    knows_ranges: bool = True
    cut_after: list[int] = field(
        default_factory=list
    )  # bytes after which the next answers end too early
    asked: list[str | None] = field(default_factory=list)  # the Range header of each request


@pytest.fixture
def web() -> Iterator[Web]:
    site = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.asked.append(wanted)
            start = (
                int(wanted.removeprefix("bytes=").rstrip("-"))
                if wanted and site.knows_ranges
                else 0
            )
            if self.path == "/missing":
                self.send_error(404)
            elif start and start >= len(site.content):
                self.send_error(416)
            else:
                body = site.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: site.cut_after.pop(0)] if site.cut_after else body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()
