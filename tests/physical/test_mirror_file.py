import sqlite3
from pathlib import Path

import pytest

from physical.mirror import Mirror, MirrorError
from physical.mirror_file import FILE_NAME, MirrorFile, image_size_of

SIZE = 8


@pytest.fixture
def file(tmp_path: Path) -> MirrorFile:
    return MirrorFile(tmp_path, SIZE)


def settings_of(file: MirrorFile) -> dict[str, str]:
    with file.reading() as connection:
        return dict(connection.execute("SELECT name, value FROM settings"))


def test_a_file_that_is_not_a_mirror_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match="got no file"):
        Mirror.open_existing(tmp_path / "nowhere")
    (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 100)
    for opening in (Mirror, Mirror.open_existing):
        with pytest.raises(MirrorError, match="is no mirror"):
            opening(tmp_path)
    with pytest.raises(MirrorError, match="8 to 1024"):
        Mirror(tmp_path / "other", 4)


def test_a_file_keeps_the_image_size_that_it_was_made_with(
    file: MirrorFile, tmp_path: Path
) -> None:
    assert image_size_of(tmp_path) == SIZE
    assert settings_of(MirrorFile(tmp_path, SIZE)) == {"image_size": str(SIZE)}
    with pytest.raises(
        MirrorError, match=f"asked for images of 16 pixels; it holds images of {SIZE}"
    ):
        MirrorFile(tmp_path, 16)


def test_a_commit_is_written_to_disk(file: MirrorFile, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    with file.reading() as ours:
        assert ours.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_transaction_that_raises_changes_nothing(file: MirrorFile) -> None:
    def fail() -> None:
        with file.transaction() as connection:
            connection.execute("INSERT INTO settings VALUES ('colour', 'red')")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert settings_of(file) == {"image_size": str(SIZE)}


def test_a_closed_file_opens_itself_again(file: MirrorFile) -> None:
    file.close()
    file.close()
    assert settings_of(file) == {"image_size": str(SIZE)}
