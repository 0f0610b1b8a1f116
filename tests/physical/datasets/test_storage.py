import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from physical.datasets import DataError
from physical.datasets.storage import cache_folder, check_file, store


def test_stored_file_has_its_name_and_nothing_else_is_left(
    tmp_path: Path, file_of: Callable[..., Any]
) -> None:
    path = store(file_of("a", b"xyz"), tmp_path, [b"x", b"yz"])
    assert path.read_bytes() == b"xyz"
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_bytes_never_get_the_name(tmp_path: Path, file_of: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="md5"):
        store(file_of("a", b"xyz"), tmp_path, [b"xyw"])
    assert list(tmp_path.iterdir()) == []


def test_interrupted_write_leaves_nothing(tmp_path: Path, file_of: Callable[..., Any]) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise OSError("cable pulled")

    with pytest.raises(OSError, match="cable pulled"):
        store(file_of("a", b"xyz"), tmp_path, broken())
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_file_is_noticed_by_its_size(
    tmp_path: Path, file_of: Callable[..., Any]
) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 bytes \(cut short\?\); expected 3 bytes, md5"):
        check_file(tmp_path / "a", file_of("a", b"xyz"))


def test_two_writers_at_once_leave_one_whole_file(
    tmp_path: Path, file_of: Callable[..., Any]
) -> None:
    file = file_of("a", b"x" * 1000)
    together = threading.Barrier(2)

    def chunks() -> Iterator[bytes]:
        for _ in range(1000):
            together.wait(timeout=10)  # every byte of one between two bytes of the other
            yield b"x"

    threads = [threading.Thread(target=store, args=(file, tmp_path, chunks())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() == b"x" * 1000
    assert len(list(tmp_path.iterdir())) == 1


def test_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "fedka"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "fedka"
