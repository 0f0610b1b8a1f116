import hashlib
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from physical.datasets.refusal import Reason, RefusalError
from physical.intake.pseudonyms import Pseudonyms
from physical.intake.quarantine import Quarantine

NOW = datetime(2024, 2, 19, 8, 30, tzinfo=UTC)
REFUSAL = RefusalError(Reason.TRUNCATED, "file: got half; allowed: all; send it again")


@pytest.fixture
def quarantine(tmp_path: Path, pseudonyms: Pseudonyms) -> Quarantine:
    return Quarantine(tmp_path / "quarantine", pseudonyms, lambda: NOW)


def test_a_file_moves_with_a_note_that_does_not_name_it(
    tmp_path: Path, quarantine: Quarantine, pseudonyms: Pseudonyms
) -> None:
    path = tmp_path / "ZORBLAX^JANE.dcm"
    path.write_bytes(b"half")
    note = quarantine.put(path, path.name, REFUSAL)
    assert not path.exists()
    (file,) = quarantine.folder.glob("truncated/*.file")
    (written,) = quarantine.folder.glob("truncated/*.json")
    assert file.read_bytes() == b"half"
    assert json.loads(written.read_text()) == {
        "name": note.name,
        "reason": "truncated",
        "detail": str(REFUSAL),
        "original_name": pseudonyms.of("file name", "ZORBLAX^JANE.dcm"),
        "time": "2024-02-19T08:30:00+00:00",
        "sha256": hashlib.sha256(b"half").hexdigest(),
        "num_bytes": 4,
    }
    assert "ZORBLAX" not in str(list(quarantine.folder.rglob("*"))) + written.read_text()


def test_only_the_owner_can_look_inside(tmp_path: Path, quarantine: Quarantine) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"half")
    path.chmod(0o644)
    quarantine.put(path, path.name, REFUSAL)
    assert stat.S_IMODE(quarantine.folder.stat().st_mode) == 0o700
    assert {
        stat.S_IMODE(each.stat().st_mode) for each in quarantine.folder.rglob("*") if each.is_file()
    } == {0o600}


def test_equal_files_with_two_names_are_both_kept_and_a_repeated_file_once(
    tmp_path: Path, quarantine: Quarantine
) -> None:
    for name in ("one", "two", "one"):
        (tmp_path / name).write_bytes(b"")
        quarantine.put(tmp_path / name, name, REFUSAL)
    assert quarantine.counts() == {"truncated": 2}


def test_a_note_without_its_file_is_ignored(tmp_path: Path, quarantine: Quarantine) -> None:
    (tmp_path / "one").write_bytes(b"1")
    quarantine.put(tmp_path / "one", "one", REFUSAL)
    for file in quarantine.folder.glob("*/*.file"):
        file.unlink()
    assert quarantine.notes() == []
    assert quarantine.counts() == {}


def test_notes_come_in_order_of_time(tmp_path: Path, pseudonyms: Pseudonyms) -> None:
    moments = iter([NOW + timedelta(seconds=2), NOW, NOW + timedelta(seconds=1)])
    quarantine = Quarantine(tmp_path / "quarantine", pseudonyms, lambda: next(moments))
    for name in "abc":
        (tmp_path / name).write_text(name)
        quarantine.put(tmp_path / name, name, RefusalError(Reason.NOT_CT, name))
    assert [note.detail for note in quarantine.notes()] == ["b", "c", "a"]
