import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from physical.datasets import DataError, download
from physical.datasets.download import fetch_files, find_files
from physical.datasets.sources import WebFiles
from physical.datasets.storage import cache_folder


def _put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_file_in_a_persons_folder_is_used_in_place(
    tmp_path: Path, file_of: Callable[..., Any], sheet_of: Callable[..., Any]
) -> None:
    path = _put(tmp_path / "mine" / "one", b"1")
    assert find_files(sheet_of((file_of("one", b"1"),)), tmp_path / "mine") == {"one": path}


def test_the_data_sets_sub_folder_is_searched(
    tmp_path: Path, file_of: Callable[..., Any], sheet_of: Callable[..., Any]
) -> None:
    path = _put(tmp_path / "mine" / "tiny" / "one", b"1")
    assert find_files(sheet_of((file_of("one", b"1"),)), tmp_path / "mine") == {"one": path}


def test_gzipped_file_in_a_persons_folder_is_unpacked_into_the_cache(
    tmp_path: Path, file_of: Callable[..., Any], sheet_of: Callable[..., Any]
) -> None:
    _put(tmp_path / "mine" / "one.gz", gzip.compress(b"1"))
    paths = find_files(sheet_of((file_of("one", b"1"),)), tmp_path / "mine")
    assert paths == {"one": cache_folder() / "tiny" / "one"}
    assert find_files(sheet_of((file_of("one", b"1"),)), tmp_path / "mine") == paths


def test_environment_names_a_folder_too(
    tmp_path: Path,
    file_of: Callable[..., Any],
    sheet_of: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = _put(tmp_path / "theirs" / "one", b"1")
    monkeypatch.setenv("FEDKA_DATA", str(tmp_path / "theirs"))
    assert find_files(sheet_of((file_of("one", b"1"),))) == {"one": path}


def test_the_laboratorys_folder_is_searched_last(
    tmp_path: Path,
    file_of: Callable[..., Any],
    sheet_of: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = _put(tmp_path / "lab" / "one", b"1")
    monkeypatch.setattr(download, "LAB_FOLDER", tmp_path / "lab")
    assert find_files(sheet_of((file_of("one", b"1"),))) == {"one": path}


def test_another_file_of_that_name_in_the_laboratorys_folder_is_ignored(
    tmp_path: Path,
    file_of: Callable[..., Any],
    sheet_of: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _put(tmp_path / "lab" / "one", b"2")
    path = _put(tmp_path / "lab" / "tiny" / "one", b"1")
    monkeypatch.setattr(download, "LAB_FOLDER", tmp_path / "lab")
    assert find_files(sheet_of((file_of("one", b"1"),))) == {"one": path}


def test_wrong_file_in_a_persons_folder_stops_with_both_digests(
    tmp_path: Path, file_of: Callable[..., Any], sheet_of: Callable[..., Any]
) -> None:
    _put(tmp_path / "mine" / "one", b"2")
    file = file_of("one", b"1")
    with pytest.raises(
        DataError, match=f"got md5 [0-9a-f]{{32}}; expected md5 {file.md5}; remove the file"
    ):
        fetch_files(sheet_of((file,)), tmp_path / "mine")


def test_folder_that_is_not_there_stops(
    tmp_path: Path, file_of: Callable[..., Any], sheet_of: Callable[..., Any]
) -> None:
    with pytest.raises(DataError, match=r"--data-dir .*no such folder"):
        find_files(sheet_of((file_of("one", b"1"),)), tmp_path / "nowhere")


def test_damaged_file_in_the_cache_is_fetched_anew(
    web: Any, file_of: Callable[..., Any], sheet_of: Callable[..., Any]
) -> None:
    path = _put(cache_folder() / "tiny" / "one", b"2")
    web.content = b"1"
    steps: list[str] = []
    sheet = sheet_of((file_of("one", b"1"),), (WebFiles("here", {"one": web.address + "/one"}),))
    assert fetch_files(sheet, report=steps.append) == {"one": path}
    assert path.read_bytes() == b"1"
    assert [step.split()[0] for step in steps] == ["not", "fetching", "stored"]


def test_file_in_the_cache_is_not_asked_for_again(
    web: Any, file_of: Callable[..., Any], sheet_of: Callable[..., Any]
) -> None:
    web.content = b"1"
    sheet = sheet_of((file_of("one", b"1"),), (WebFiles("here", {"one": web.address + "/one"}),))
    fetch_files(sheet)
    fetch_files(sheet)
    assert len(web.asked) == 1


def test_mirror_is_asked_when_the_first_place_fails(
    web: Any, file_of: Callable[..., Any], sheet_of: Callable[..., Any]
) -> None:
    web.content = b"1"
    places = (
        WebFiles("closed", {"one": "http://127.0.0.1:1/one"}),
        WebFiles("open", {"one": web.address + "/one"}),
    )
    steps: list[str] = []
    fetch_files(sheet_of((file_of("one", b"1"),), places), report=steps.append)
    assert any(step.startswith("not from closed: cannot be reached") for step in steps)


def test_second_file_comes_from_another_place(
    web: Any, tmp_path: Path, file_of: Callable[..., Any], sheet_of: Callable[..., Any]
) -> None:
    _put(tmp_path / "mine" / "one", b"1")
    web.content = b"2"
    sheet = sheet_of(
        (file_of("one", b"1"), file_of("two", b"2")),
        (WebFiles("here", {"two": web.address + "/two"}),),
    )
    paths = fetch_files(sheet, tmp_path / "mine")
    assert list(paths) == ["one", "two"]
    assert paths["two"].read_bytes() == b"2"


def test_a_file_found_nowhere_is_reported_with_address_digest_and_target_folder(
    file_of: Callable[..., Any], sheet_of: Callable[..., Any]
) -> None:
    file = file_of("one", b"1")
    sheet = sheet_of((file,), (WebFiles("closed", {"one": "http://127.0.0.1:1/one"}),))
    with pytest.raises(DataError) as caught:
        fetch_files(sheet)
    told = str(caught.value)
    for part in (
        "closed: cannot be reached",
        "http://127.0.0.1:1/one",
        file.md5,
        str(cache_folder() / "tiny"),
        "--data-dir",
        "FEDKA_DATA",
    ):
        assert part in told
    assert "\n" not in told
