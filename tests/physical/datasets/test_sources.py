import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from physical.datasets import DataError
from physical.datasets.dataset import Delivery
from physical.datasets.sources import (
    Generated,
    LocalArchive,
    SystemFolder,
    WebArchive,
    WebFiles,
    WheelMember,
    extract_tar,
    extract_wheel,
)


@pytest.fixture
def delivery(tmp_path: Path) -> Delivery:
    return Delivery(
        tmp_path / "into", (tmp_path,), lambda _: None, lambda _name, _done, _total: None
    )


def _tar(path: Path, members: Mapping[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # mode is a str
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _wheel(path: Path, members: Mapping[str, bytes]) -> Path:
    about = "tiny_data-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(
            f"{about}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\nRequires-Python: >=3.13\n",
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_only_needed_members_leave_a_tar_archive(
    tmp_path: Path, file_of: Callable[..., Any], mode: str
) -> None:
    archive = _tar(
        tmp_path / "a.tar", {"folder/one": b"1", "../evil": b"!", "folder/two": b"22"}, mode
    )
    extract_tar(archive, [file_of("two", b"22")], tmp_path / "into")
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["two"]


def test_link_in_a_tar_archive_is_not_followed(tmp_path: Path, file_of: Callable[..., Any]) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("one")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    with pytest.raises(DataError, match="no member one"):
        extract_tar(tmp_path / "a.tar", [file_of("one", b"1")], tmp_path)


def test_a_damaged_tar_archive_raises_a_data_error(
    tmp_path: Path, file_of: Callable[..., Any]
) -> None:
    archive = _tar(tmp_path / "a.tar.gz", {"one": bytes(range(256)) * 100})
    archive.write_bytes(archive.read_bytes()[:120])
    with pytest.raises(DataError, match="cut short or damaged"):
        extract_tar(archive, [file_of("one", bytes(range(256)) * 100)], tmp_path)
    (tmp_path / "junk").write_bytes(b"junk" * 500)
    with pytest.raises(DataError, match="cannot be read"):
        extract_tar(tmp_path / "junk", [file_of("one", b"1")], tmp_path)


def test_local_archive_is_found_under_one_of_its_names(
    tmp_path: Path, file_of: Callable[..., Any], delivery: Delivery
) -> None:
    source = LocalArchive(("a.tar.xz", "a.tar.gz"))
    with pytest.raises(DataError, match="--data-dir"):
        source.deliver([file_of("one", b"1")], delivery)
    _tar(tmp_path / "a.tar.gz", {"one": b"1"})
    source.deliver([file_of("one", b"1")], delivery)
    assert (delivery.folder / "one").read_bytes() == b"1"


def test_web_file_arrives_and_its_part_is_gone(
    web: Any, file_of: Callable[..., Any], delivery: Delivery
) -> None:
    web.content = b"content"
    WebFiles("here", {"one": web.address + "/one"}).deliver([file_of("one", b"content")], delivery)
    assert (delivery.folder / "one").read_bytes() == b"content"
    assert not list(delivery.folder.glob("*.part"))


def test_gzipped_web_file_is_unpacked(
    web: Any, file_of: Callable[..., Any], delivery: Delivery
) -> None:
    web.content = gzip.compress(b"content")
    WebFiles("here", {"one": web.address + "/one.gz"}, packed=True).deliver(
        [file_of("one", b"content")], delivery
    )
    assert (delivery.folder / "one").read_bytes() == b"content"


def test_web_archive_is_opened(
    web: Any, tmp_path: Path, file_of: Callable[..., Any], delivery: Delivery
) -> None:
    web.content = _tar(tmp_path / "a.tar.gz", {"folder/one": b"1", "folder/two": b"2"}).read_bytes()
    WebArchive("here", web.address + "/a.tar.gz").deliver(
        [file_of("one", b"1"), file_of("two", b"2")], delivery
    )
    assert (delivery.folder / "two").read_bytes() == b"2"


def test_web_file_with_the_wrong_digest_is_thrown_away(
    web: Any, file_of: Callable[..., Any], delivery: Delivery
) -> None:
    web.content = b"contenX"
    with pytest.raises(DataError, match="expected md5"):
        WebFiles("here", {"one": web.address + "/one"}).deliver(
            [file_of("one", b"content")], delivery
        )
    assert not list(delivery.folder.glob("one")) + list(delivery.folder.glob("*.part"))


def test_a_missing_system_folder_says_how_to_install_it(
    tmp_path: Path, file_of: Callable[..., Any], delivery: Delivery
) -> None:
    source = SystemFolder(tmp_path / "share", "apt-get install tiny")
    with pytest.raises(DataError, match="apt-get install tiny"):
        source.deliver([file_of("one", b"1")], delivery)
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "one.gz").write_bytes(gzip.compress(b"1", compresslevel=1))
    source.deliver([file_of("one", b"1")], delivery)
    assert (delivery.folder / "one").read_bytes() == b"1"


def test_a_truncated_gzip_file_raises_a_data_error(
    tmp_path: Path, file_of: Callable[..., Any], delivery: Delivery
) -> None:
    (tmp_path / "one.gz").write_bytes(gzip.compress(bytes(range(256)) * 9)[:-20])
    with pytest.raises(DataError, match="cut short or damaged"):
        SystemFolder(tmp_path, "").deliver([file_of("one", b"1")], delivery)


def test_member_leaves_a_wheel(tmp_path: Path, file_of: Callable[..., Any]) -> None:
    wheel = _wheel(tmp_path / "a.whl", {"tiny/one": b"1"})
    extract_wheel(wheel, {"one": "tiny/one"}, [file_of("one", b"1")], tmp_path / "into")
    assert (tmp_path / "into" / "one").read_bytes() == b"1"
    with pytest.raises(DataError, match="no such member"):
        extract_wheel(wheel, {"two": "tiny/two"}, [file_of("two", b"2")], tmp_path / "into")
    with pytest.raises(DataError, match="md5"):
        extract_wheel(wheel, {"one": "tiny/one"}, [file_of("one", b"2")], tmp_path / "into")
    wheel.write_bytes(b"junk")
    with pytest.raises(DataError, match="cannot be read"):
        extract_wheel(wheel, {"one": "tiny/one"}, [file_of("one", b"1")], tmp_path / "into")


def test_pip_fetches_a_wheel_for_another_python(
    tmp_path: Path, file_of: Callable[..., Any], delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    _wheel(shelf / "tiny_data-1.0-py3-none-any.whl", {"tiny/one": b"1"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    WheelMember("tiny-data==1.0", "3.13", {"one": "tiny/one"}).deliver(
        [file_of("one", b"1")], delivery
    )
    assert (delivery.folder / "one").read_bytes() == b"1"
    assert len(list(delivery.folder.iterdir())) == 1


def test_pips_own_error_is_reported(
    tmp_path: Path, file_of: Callable[..., Any], delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(OSError, match="pip ended with code 1: ERROR"):
        WheelMember("tiny-data==1.0", "3.13", {"one": "tiny/one"}).deliver(
            [file_of("one", b"1")], delivery
        )


def test_generated_file_must_have_its_digest_too(
    file_of: Callable[..., Any], delivery: Delivery
) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"1")

    Generated("one", write).deliver([file_of("one", b"1")], delivery)
    assert (delivery.folder / "one").read_bytes() == b"1"
    with pytest.raises(DataError, match="md5"):
        Generated("two", write).deliver([file_of("two", b"2")], delivery)
