import re
from pathlib import Path
from typing import Any

import pytest

from physical.datasets import DataError
from physical.datasets.web import download, partial_file

CONTENT = bytes(range(256)) * 40


def _nothing(_done: int, _total: int | None) -> None:
    pass


def test_a_file_is_downloaded_whole_and_progress_ends_at_its_size(web: Any, tmp_path: Path) -> None:
    web.content = CONTENT
    seen: list[tuple[int, int | None]] = []
    download(
        web.address + "/a", tmp_path / "a.part", lambda done, total: seen.append((done, total))
    )
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_download_goes_on_where_an_earlier_one_ended(web: Any, tmp_path: Path) -> None:
    web.content = CONTENT
    (tmp_path / "a.part").write_bytes(CONTENT[:1000])
    download(web.address + "/a", tmp_path / "a.part", _nothing)
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    assert web.asked == ["bytes=1000-"]


def test_broken_connection_is_opened_again_for_the_rest(web: Any, tmp_path: Path) -> None:
    web.content, web.cut_after = CONTENT, [100, 200]
    download(web.address + "/a", tmp_path / "a.part", _nothing)
    assert (tmp_path / "a.part").read_bytes() == CONTENT
    assert web.asked == [None, "bytes=100-", "bytes=300-"]


def test_server_without_ranges_sends_everything_again(web: Any, tmp_path: Path) -> None:
    web.content, web.knows_ranges = CONTENT, False
    (tmp_path / "a.part").write_bytes(b"x" * 50)
    download(web.address + "/a", tmp_path / "a.part", _nothing)
    assert (tmp_path / "a.part").read_bytes() == CONTENT


def test_download_that_is_already_whole_asks_for_nothing_more(web: Any, tmp_path: Path) -> None:
    web.content = CONTENT
    (tmp_path / "a.part").write_bytes(CONTENT)
    download(web.address + "/a", tmp_path / "a.part", _nothing)
    assert (tmp_path / "a.part").read_bytes() == CONTENT


def test_a_connection_without_new_bytes_is_given_up_and_the_part_is_kept(
    web: Any, tmp_path: Path
) -> None:
    web.content, web.cut_after = CONTENT, [100, 0]
    with pytest.raises((DataError, OSError), match=re.escape("100 bytes") + "|cannot be reached"):
        download(web.address + "/a", tmp_path / "a.part", _nothing)
    assert (tmp_path / "a.part").read_bytes() == CONTENT[:100]


def test_an_http_error_is_reported_with_its_code(web: Any, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="answers 404"):
        download(web.address + "/missing", tmp_path / "a.part", _nothing)


def test_a_closed_port_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be reached"):
        download("http://127.0.0.1:1/a", tmp_path / "a.part", _nothing)


def test_two_downloads_of_one_file_have_a_part_each(tmp_path: Path) -> None:
    with partial_file(tmp_path / "a") as first, partial_file(tmp_path / "a") as second:
        assert first != second
        second.write_bytes(b"x")
    assert not second.exists()
    with partial_file(tmp_path / "a") as again:
        assert again == first
