import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from shutil import copyfile
from typing import Any, cast

import pytest
from sqlalchemy.exc import DatabaseError

from twin.review.audit import AuditError, AuditFault, AuditLog
from twin.review.workflow import Role

ROWS = 7
COLUMNS = (
    "number",
    "at",
    "actor",
    "role",
    "hospital",
    "what",
    "subject",
    "details",
    "previous",
    "hash",
    "seal",
)


@contextmanager
def raw(database: Path, guarded: bool = False) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(database)) as connection:
        if not guarded:
            for (trigger,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall():
                connection.execute(f"DROP TRIGGER {trigger}")
        yield connection
        connection.commit()


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    times = (datetime(2031, 5, 6, 7, 8, 9 + second, tzinfo=UTC) for second in range(1, ROWS + 1))
    log = AuditLog(f"sqlite:///{folder}/console.sqlite", lambda: next(times))
    for number in range(1, ROWS + 1):
        hospital = None if number == 3 else "north"
        log.record(
            f"user-{number}",
            Role.CLINICIAN,
            hospital,
            "case.name",
            f"case {number}",
            {"reason": f"ä{number}", "n": [1, 2.5, None]},
        )
    return folder


Restore = Callable[[], None]


@pytest.fixture
def restore(written: Path, database: Path) -> Restore:
    """Put the log back as it was written."""

    def put_back() -> None:
        for file in written.iterdir():
            copyfile(file, database.with_name(file.name))

    return put_back


@pytest.fixture
def log(url: str, restore: Restore) -> AuditLog:
    restore()
    return AuditLog(url)


@pytest.fixture
def anchor(database: Path) -> Path:
    return database.with_name("console.sqlite.audit")


def faults(log: AuditLog) -> list[int | None]:
    return [fault.row for fault in log.verify()]


def test_an_untouched_log_verifies(log: AuditLog, url: str) -> None:
    assert log.verify() == []
    assert AuditLog(url).verify() == []


def test_an_empty_log_verifies(url: str) -> None:
    assert AuditLog(url).verify() == []
    assert AuditLog(url).entries().items == ()


def test_entries_come_newest_first_and_whole(log: AuditLog) -> None:
    page = log.entries(2, 3)
    assert [entry.number for entry in page.items] == [4, 3, 2]
    assert (page.total, page.num_pages) == (ROWS, 3)
    entry = page.items[1]
    assert (entry.actor, entry.role, entry.hospital, entry.what, entry.subject) == (
        "user-3",
        "clinician",
        None,
        "case.name",
        "case 3",
    )
    assert entry.details == {"reason": "ä3", "n": [1, 2.5, None]}
    assert entry.at == "2031-05-06T07:08:12.000+00:00"
    assert log.entries(hospital="north").total == ROWS - 1
    assert log.head() == (ROWS, log.entries().items[0].hash)


CHANGES: dict[str, Callable[[object], object]] = {
    "number": lambda value: int(value) + 100,  # type: ignore[call-overload]  # untyped
    "hospital": lambda value: "south" if value is None else None,
    "details": lambda value: str(value).replace('"n":[1', '"n": [1'),
}


@pytest.mark.parametrize("number", range(1, ROWS + 1))
def test_changing_any_column_of_any_row_is_found(
    log: AuditLog, database: Path, restore: Restore, number: int
) -> None:
    for column in COLUMNS:
        restore()
        with raw(database) as connection:
            (value,) = connection.execute(
                f"SELECT {column} FROM review_audit WHERE number = ?", [number]
            ).fetchone()
            changed = CHANGES.get(column, lambda value: f"{value}x")(value)
            assert changed != value
            connection.execute(
                f"UPDATE review_audit SET {column} = ? WHERE number = ?", [changed, number]
            )
        assert number in faults(log), column


@pytest.mark.parametrize("value", [b"\xff\xfe", "\x00", 5, 1e300, ""])
def test_a_value_of_another_kind_is_found_and_stops_nothing(
    log: AuditLog, database: Path, restore: Restore, value: object
) -> None:
    for column in COLUMNS[1:]:
        restore()
        with raw(database) as connection:
            connection.execute(f"UPDATE review_audit SET {column} = ? WHERE number = 4", [value])
        assert 4 in faults(log), column
        assert len(log.entries().items) == ROWS


def test_text_that_is_no_text_is_found(log: AuditLog, database: Path) -> None:
    with raw(database) as connection:
        connection.execute("UPDATE review_audit SET actor = CAST(x'ff80' AS TEXT) WHERE number = 4")
    assert faults(log) == [4]
    assert len(log.entries().items) == ROWS


@pytest.mark.parametrize("number", range(1, ROWS + 1))
def test_deleting_any_row_is_found(log: AuditLog, database: Path, number: int) -> None:
    with raw(database) as connection:
        connection.execute("DELETE FROM review_audit WHERE number = ?", [number])
    assert faults(log) == [number]


@pytest.mark.parametrize("number", range(1, ROWS + 1))
def test_deleting_a_row_and_closing_the_gap_is_found(
    log: AuditLog, database: Path, number: int
) -> None:
    with raw(database) as connection:
        connection.execute("DELETE FROM review_audit WHERE number = ?", [number])
        for later in range(number + 1, ROWS + 1):
            connection.execute(
                "UPDATE review_audit SET number = number - 1 WHERE number = ?", [later]
            )
    found = faults(log)
    assert ROWS in found
    assert number in found


@pytest.mark.parametrize("left", range(ROWS))
def test_cutting_off_the_end_is_found(log: AuditLog, database: Path, url: str, left: int) -> None:
    with raw(database) as connection:
        connection.execute("DELETE FROM review_audit WHERE number > ?", [left])
    assert faults(log) == [left + 1]
    assert [fault.row for fault in AuditLog(url).verify()] == [left + 1]
    assert "the anchor counts 7" in log.verify()[0].what


def test_a_cut_end_stays_found_when_the_log_goes_on(
    log: AuditLog, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with raw(database) as connection:
        connection.execute("DELETE FROM review_audit WHERE number > 5")
    for number in range(5):
        assert log.record("anna", Role.CLINICIAN, "north", "case.open", "case 1") == 6 + number
        assert 7 in faults(log) or 8 in faults(log)
    assert faults(log) == [7]
    assert "anchor stays where it is" in caplog.text


@pytest.mark.parametrize("pair", [(1, 2), (3, 6), (6, 7)])
def test_exchanging_two_rows_is_found(log: AuditLog, database: Path, pair: tuple[int, int]) -> None:
    with raw(database) as connection:
        for old, new in ((pair[0], 99), (pair[1], pair[0]), (99, pair[1])):
            connection.execute("UPDATE review_audit SET number = ? WHERE number = ?", [new, old])
    assert set(pair) <= set(faults(log))


def chained(connection: sqlite3.Connection, number: int, /, **changes: object) -> dict[str, object]:
    """Make the row that this program would have written, as far as one can without its key."""
    from hashlib import sha256

    names = [column[1] for column in connection.execute("PRAGMA table_info(review_audit)")]
    row = (
        dict(
            zip(
                names,
                connection.execute(
                    "SELECT * FROM review_audit WHERE number = ?", [number]
                ).fetchone(),
                strict=True,
            )
        )
        | changes
    )
    said = {name: row[name] for name in COLUMNS[:8]}
    row["hash"] = sha256(
        json.dumps([row["previous"], said], sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()
    return row


def test_a_rows_hash_is_what_the_documentation_says(log: AuditLog, database: Path) -> None:
    with raw(database, guarded=True) as connection:
        for number in range(1, ROWS + 1):
            (stored,) = connection.execute(
                "SELECT hash FROM review_audit WHERE number = ?", [number]
            ).fetchone()
            assert chained(connection, number)["hash"] == stored


def test_a_row_appended_without_the_key_is_found(log: AuditLog, database: Path) -> None:
    with raw(database) as connection:
        (head,) = connection.execute(
            "SELECT hash FROM review_audit WHERE number = ?", [ROWS]
        ).fetchone()
        row = chained(connection, ROWS, number=ROWS + 1, previous=head)
        connection.execute(
            f"INSERT INTO review_audit ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
            list(row.values()),
        )
    assert faults(log) == [ROWS + 1]
    assert "was not written by this log" in log.verify()[0].what


@pytest.mark.parametrize("number", range(1, ROWS + 1))
def test_a_chain_rewritten_from_a_row_on_is_found(
    log: AuditLog, database: Path, number: int
) -> None:
    with raw(database) as connection:
        previous = connection.execute(
            "SELECT previous FROM review_audit WHERE number = ?", [number]
        ).fetchone()[0]
        for each in range(number, ROWS + 1):
            row = chained(
                connection,
                each,
                previous=previous,
                **({"actor": "mallory"} if each == number else {}),
            )
            connection.execute(
                "UPDATE review_audit SET actor = ?, previous = ?, hash = ? WHERE number = ?",
                [row["actor"], previous, row["hash"], each],
            )
            previous = str(row["hash"])
    assert set(range(number, ROWS + 1)) <= set(faults(log))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE review_audit SET actor = 'x' WHERE number = 3",
        "UPDATE review_audit SET number = number",
        "DELETE FROM review_audit WHERE number = 3",
        "DELETE FROM review_audit",
        "INSERT OR REPLACE INTO review_audit SELECT * FROM review_audit WHERE number = 3",
        f"INSERT INTO review_audit SELECT number + 90, {', '.join(COLUMNS[1:])} FROM review_audit "
        "LIMIT 1",
    ],
)
def test_the_database_itself_refuses_changes(log: AuditLog, database: Path, change: str) -> None:
    with raw(database, guarded=True) as connection:
        before = connection.execute("SELECT * FROM review_audit ORDER BY number").fetchall()
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(change)
        assert connection.execute("SELECT * FROM review_audit ORDER BY number").fetchall() == before
    assert log.verify() == []


def test_dropped_triggers_are_put_back_when_the_log_is_opened(
    log: AuditLog, database: Path, url: str
) -> None:
    with raw(database):
        pass
    AuditLog(url)
    with (
        raw(database, guarded=True) as connection,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        connection.execute("DELETE FROM review_audit")


def test_an_anchor_that_lags_raises_no_alarm_and_catches_up(
    log: AuditLog, url: str, anchor: Path, tmp_path: Path
) -> None:
    copyfile(anchor, tmp_path / "older")
    for _ in range(3):
        log.record("anna", Role.CLINICIAN, "north", "case.open", "case 1")
    copyfile(tmp_path / "older", anchor)
    assert log.verify() == []
    assert json.loads(anchor.read_text())["count"] == ROWS
    assert AuditLog(url).verify() == []
    assert json.loads(anchor.read_text())["count"] == ROWS + 3


def test_an_anchor_does_not_follow_rows_that_do_not_verify(
    log: AuditLog, url: str, database: Path, anchor: Path, tmp_path: Path
) -> None:
    copyfile(anchor, tmp_path / "older")
    log.record("anna", Role.CLINICIAN, "north", "case.open", "case 1")
    copyfile(tmp_path / "older", anchor)
    with raw(database) as connection:
        connection.execute("UPDATE review_audit SET actor = 'x' WHERE number = ?", [ROWS + 1])
    AuditLog(url).record("anna", Role.CLINICIAN, "north", "case.open", "case 1")
    assert json.loads(anchor.read_text())["count"] == ROWS
    assert faults(log) == [ROWS + 1]


def test_a_transaction_that_fails_leaves_neither_row_nor_anchor(
    log: AuditLog, anchor: Path
) -> None:
    before = anchor.read_bytes()

    def write_and_fail() -> None:
        with log.writing() as connection:
            log.append(connection, "anna", Role.CLINICIAN, None, "case.open", "case 1")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        write_and_fail()
    assert log.head()[0] == ROWS
    assert anchor.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    ["{}", "", "[1]", '{"count": 2, "head": "00", "seal": "00"}', '{"count": "x"}', "\xff"],
)
def test_a_damaged_anchor_is_a_fault(log: AuditLog, anchor: Path, damage: str) -> None:
    anchor.write_text(damage, encoding="latin-1")
    (fault,) = log.verify()
    assert fault.row is None
    assert "put it back from a backup" in fault.what
    log.record("anna", Role.CLINICIAN, "north", "case.open", "case 1")
    assert faults(log) == [None]


@pytest.mark.parametrize("change", [{"count": ROWS - 1}, {"head": "0" * 64}, {"count": ROWS + 1}])
def test_an_anchor_changed_without_the_key_is_a_fault(
    log: AuditLog, anchor: Path, change: dict[str, Any]
) -> None:
    anchor.write_text(json.dumps(json.loads(anchor.read_text()) | change))
    assert log.verify() == [
        AuditFault(
            None,
            f"anchor of the audit log {anchor} was not written with its key; put it back from a "
            "backup",
        )
    ]


def test_a_missing_anchor_is_a_fault_and_no_new_one_is_made(
    log: AuditLog, anchor: Path, url: str, database: Path
) -> None:
    anchor.unlink()
    assert faults(AuditLog(url)) == [None]
    assert not anchor.exists()
    with raw(database) as connection:
        connection.execute("DELETE FROM review_audit WHERE number = 4")
    assert faults(log) == [None, 4]


def test_without_the_key_nothing_is_written_and_no_new_one_is_made(
    log: AuditLog, anchor: Path, url: str
) -> None:
    key = anchor.with_name(anchor.name + ".key")
    secret = key.read_bytes()
    for content in (None, b"short"):
        key.unlink(missing_ok=True) if content is None else key.write_bytes(content)
        again = AuditLog(url)
        with pytest.raises(AuditError, match="put it back from a backup"):
            again.record("anna", Role.CLINICIAN, "north", "case.open", "case 1")
        assert faults(again) == [None]
    key.write_bytes(secret)
    assert log.verify() == []
    assert log.head()[0] == ROWS


def test_key_and_anchor_are_their_owners_alone(
    log: AuditLog, anchor: Path, written: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = anchor.with_name(anchor.name + ".key")
    assert {path.stat().st_mode & 0o777 for path in written.glob("*.audit*")} == {0o600}
    shown = (
        repr(log)
        + repr(log.__dict__)
        + caplog.text
        + anchor.read_text()
        + "".join(map(repr, log.entries().items))
    )
    assert key.read_bytes().hex() not in shown
    assert repr(key.read_bytes())[2:-1] not in shown
    assert not list(anchor.parent.glob(".*"))


def test_an_anchor_elsewhere_is_used(url: str, tmp_path: Path, database: Path) -> None:
    elsewhere = tmp_path / "other" / "anchor"
    log = AuditLog(url, anchor=elsewhere)
    log.record("anna", Role.CLINICIAN, None, "case.open", "case 1")
    assert json.loads(elsewhere.read_text())["count"] == 1
    assert not database.with_name("console.sqlite.audit").exists()


def test_another_database_needs_a_place_for_its_anchor() -> None:
    with pytest.raises(AuditError, match="give anchor=PATH"):
        AuditLog("postgresql+psycopg://user:secret@host/console")


@pytest.mark.parametrize("wrong", [{"a": float("nan")}, {"a": object()}, {"a": b"x"}])
def test_details_that_are_no_json_are_refused(log: AuditLog, wrong: dict[str, Any]) -> None:
    with pytest.raises(AuditError, match="no JSON"):
        log.record("anna", Role.CLINICIAN, None, "case.open", "case 1", wrong)
    assert log.head()[0] == ROWS


def test_a_full_disk_at_the_anchor_undoes_no_act(
    log: AuditLog, anchor: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = anchor.read_bytes()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert log.record("anna", Role.CLINICIAN, None, "case.open", "case 1") == ROWS + 1
    monkeypatch.undo()
    assert "No space left" in caplog.text
    assert anchor.read_bytes() == before
    assert log.verify() == []
    assert not list(anchor.parent.glob(".*"))


def test_threads_share_one_chain(url: str, anchor: Path) -> None:
    log, start = AuditLog(url), threading.Barrier(4)

    def append(name: str) -> None:
        start.wait()
        for _ in range(10):
            log.record(name, Role.CLINICIAN, None, "case.open", "case 1")

    threads = [threading.Thread(target=append, args=(f"thread-{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (log.head()[0], log.verify()) == (40, [])
    assert json.loads(anchor.read_text())["count"] == 40


APPEND = """
import sys
from twin.review.audit import AuditLog
from twin.review.workflow import Role

print("ready", flush=True)
sys.stdin.readline()
log = AuditLog(sys.argv[1])
for _ in range(25):
    log.record(sys.argv[2], Role.CLINICIAN, None, "case.open", "case 1")
print("done", flush=True)
sys.stdin.readline()
"""


@contextmanager
def two_processes(url: str) -> Iterator[list["subprocess.Popen[str]"]]:
    command = [sys.executable, "-c", APPEND, url]
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "text": True,
        "cwd": Path(__file__).parents[3],
    }
    started = [subprocess.Popen([*command, name], **pipes) for name in ("one", "two")]  # type: ignore[call-overload]  # untyped
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_processes_that_create_and_write_at_once_share_one_chain(url: str, anchor: Path) -> None:
    with two_processes(url) as processes:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            assert process.stdin is not None
            process.stdin.flush()
        assert [cast(Any, process.stdout).readline() for process in processes] == [
            "done\n",
            "done\n",
        ]
    log = AuditLog(url)
    assert (log.head()[0], log.verify()) == (50, [])
    assert json.loads(anchor.read_text())["count"] == 50


def test_a_process_killed_while_it_writes_raises_no_false_alarm(url: str) -> None:
    for _ in range(3):
        with two_processes(url) as processes:
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                assert process.stdin is not None
                process.stdin.write("go\n")
                assert process.stdin is not None
                process.stdin.flush()
            assert cast(Any, processes[0].stdout).readline() == "done\n"
            processes[1].kill()
        assert AuditLog(url).verify() == []


def test_a_busy_database_says_so_and_shows_no_values(
    url: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twin.review.database.BUSY_SECONDS", 0.01)
    log = AuditLog(url)
    with raw(database, guarded=True) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError, match="locked") as refused:
            log.record("anna", Role.CLINICIAN, None, "case.open", "secret subject")
    assert "secret subject" not in str(refused.value)
