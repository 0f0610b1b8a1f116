import sqlite3
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type

from twin.review import login_delays, sessions
from twin.review.accounts import ACCOUNT_ROLES, Account, AccountError, Accounts
from twin.review.workflow import Actor, Role

PASSWORD = "correct horse battery"
WRONG = "wrong horse battery"


class CountingHasher(PasswordHasher):
    """argon2's own hasher, with a count of how often it verified what kind of hash."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified: list[object] = []

    def verify(self, hash: Any, password: Any) -> Any:  # argon2's names
        self.verified.append(extract_parameters(str(hash)))
        return super().verify(hash, password)


@pytest.fixture
def anna(accounts: Accounts) -> Account:
    return accounts.add("anna", PASSWORD, Role.CLINICIAN, "north")


def dump(database: Path) -> str:
    with closing(sqlite3.connect(database)) as raw:
        return "\n".join(raw.iterdump())


def test_who_gives_the_right_password_is_let_in(accounts: Accounts, anna: Account) -> None:
    assert anna == Account("anna", Role.CLINICIAN, "north", False, "2031-05-06T07:08:09.000+00:00")
    assert accounts.check("anna", PASSWORD) == anna
    assert accounts.check(" Anna ", PASSWORD) == anna
    assert accounts.check("anna", WRONG) is None
    assert accounts.check("anna", PASSWORD.upper()) is None
    assert accounts.check("berta", PASSWORD) is None


def test_accounts_survive_opening_again(
    accounts: Accounts, anna: Account, url: str, hasher: PasswordHasher
) -> None:
    assert Accounts(url, hasher=hasher).check("anna", PASSWORD) == anna


def test_accounts_are_listed_by_name(accounts: Accounts, anna: Account) -> None:
    accounts.add("Dora", PASSWORD, Role.OPERATOR)
    accounts.add("carl", PASSWORD, Role.APPROVER, "south")
    assert [(each.user, each.role, each.hospital) for each in accounts.list()] == [
        ("anna", Role.CLINICIAN, "north"),
        ("carl", Role.APPROVER, "south"),
        ("dora", Role.OPERATOR, None),
    ]
    assert accounts.get("DORA").user == "dora"


def test_a_name_that_is_none_is_refused(accounts: Accounts) -> None:
    for user in (
        "",
        " ",
        "a b",
        "-anna",
        "a/b",
        "../x",
        "<b>",
        "ä",
        "x" * 65,
        "system",
        "SYSTEM",
        "\ud800",
        "a\x00b",
        "a\nb",
    ):
        with pytest.raises(AccountError, match="user name is"):
            accounts.add(user, PASSWORD, Role.OPERATOR)
        assert accounts.check(user, PASSWORD) is None
        with pytest.raises(AccountError, match="does not exist"):
            accounts.open_session(user)


def test_spaces_around_a_name_are_nobodys_intention(accounts: Accounts) -> None:
    assert accounts.add(" anna\n", PASSWORD, Role.OPERATOR).user == "anna"


def test_a_name_is_taken_whatever_its_capitals(accounts: Accounts, anna: Account) -> None:
    with pytest.raises(AccountError, match="exists"):
        accounts.add("ANNA", PASSWORD, Role.OPERATOR)


@pytest.mark.parametrize("password", ["", "x" * 11, "x" * 1025])
def test_a_password_has_at_least_twelve_characters(
    accounts: Accounts, anna: Account, password: str
) -> None:
    for ask in (
        lambda: accounts.add("berta", password, Role.OPERATOR),
        lambda: accounts.set_password("anna", password),
    ):
        with pytest.raises(
            AccountError, match=f"has {len(password)} characters; allowed: 12 to 1024"
        ):
            ask()
    assert accounts.check("anna", PASSWORD)


@pytest.mark.parametrize("password", ["annabel.smith", "Annabel.Smith", " annabel.smith "])
def test_a_password_is_not_the_user_name(accounts: Accounts, password: str) -> None:
    with pytest.raises(AccountError, match="password is the user name"):
        accounts.add("annabel.smith", password, Role.OPERATOR)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("hospital", ["north", None, ""])
def test_hospital_and_role_go_together(
    accounts: Accounts, role: Role, hospital: str | None
) -> None:
    inside = role in {Role.CLINICIAN, Role.APPROVER}
    if role is Role.SYSTEM or inside != bool(hospital):
        with pytest.raises(
            AccountError,
            match="allowed: clinician, approver, operator, auditor"
            if role is Role.SYSTEM
            else "hospital",
        ):
            accounts.add("anna", PASSWORD, role, hospital)
    else:
        assert accounts.add("anna", PASSWORD, role, hospital).hospital == (hospital or None)


def test_the_program_itself_has_no_account() -> None:
    assert set(ACCOUNT_ROLES) == set(Role) - {Role.SYSTEM}


def test_accents_are_the_same_however_they_are_typed(accounts: Accounts) -> None:
    accounts.add("anna", "müller-lüdenscheid", Role.OPERATOR)
    assert accounts.check("anna", "mu\u0308ller-lu\u0308denscheid")


def test_passwords_of_any_length_and_letters_are_refused_in_peace(
    accounts: Accounts, anna: Account
) -> None:
    for password in ("x" * 10_000_000, "", "\x00", "\ud800"):
        assert accounts.check("anna", password) is None


def test_hashes_are_argon2id_and_strong_by_default(url: str, database: Path) -> None:
    Accounts(url).add("anna", PASSWORD, Role.OPERATOR)
    with closing(sqlite3.connect(database)) as raw:
        (stored,) = raw.execute("SELECT password_hash FROM review_user").fetchone()
    parameters = extract_parameters(stored)
    assert parameters.type is Type.ID
    assert parameters.memory_cost >= 64 * 1024
    assert parameters.time_cost >= 3


def test_an_unknown_or_disabled_user_costs_as_much_work_as_a_known_one(
    url: str, clock: Any
) -> None:
    hasher = CountingHasher()
    accounts = Accounts(url, clock, hasher=hasher)
    accounts.add("anna", PASSWORD, Role.OPERATOR)
    accounts.add("berta", PASSWORD, Role.OPERATOR)
    accounts.disable("berta")
    work = []
    tries = [
        ("anna", PASSWORD),
        ("anna", WRONG),
        ("berta", PASSWORD),
        ("nobody", WRONG),
        ("a/b", WRONG),
        ("nobody", "x" * 2000),
    ]
    for user, password in tries:
        hasher.verified.clear()
        accounts.check(user, password)
        work.append(list(hasher.verified))
    assert all(each == [extract_parameters(hasher.hash(b""))] for each in work)


def test_a_hash_of_older_parameters_is_renewed_at_login(
    url: str, clock: Any, anna: Account, database: Path
) -> None:
    stronger = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    accounts = Accounts(url, clock, hasher=stronger)
    before = dump(database)
    assert accounts.check("anna", WRONG) is None
    assert accounts.check("anna", PASSWORD)
    with closing(sqlite3.connect(database)) as raw:
        (stored,) = raw.execute("SELECT password_hash FROM review_user").fetchone()
    assert stored not in before
    assert extract_parameters(stored).memory_cost == 16
    assert accounts.check("anna", PASSWORD)
    assert stored in dump(database)


def test_a_damaged_hash_lets_nobody_in(accounts: Accounts, anna: Account, database: Path) -> None:
    with closing(sqlite3.connect(database)) as raw:
        raw.execute("UPDATE review_user SET password_hash = 'x'")
        raw.commit()
    assert accounts.check("anna", PASSWORD) is None


def test_a_disabled_user_is_out_at_once(accounts: Accounts, anna: Account) -> None:
    token = accounts.open_session("anna")
    accounts.disable("anna")
    assert accounts.session(token) is None
    assert accounts.check("anna", PASSWORD) is None
    with pytest.raises(AccountError, match="disabled"):
        accounts.open_session("anna")
    accounts.enable("anna")
    assert accounts.check("anna", PASSWORD) == anna
    assert accounts.session(token) is None


def test_a_new_password_ends_all_sessions(accounts: Accounts, anna: Account) -> None:
    tokens = [accounts.open_session("anna") for _ in range(3)]
    accounts.set_password("anna", "another password")
    assert [accounts.session(token) for token in tokens] == [None] * 3
    assert accounts.check("anna", PASSWORD) is None
    assert accounts.check("anna", "another password")


def test_what_does_not_exist_cannot_be_changed(accounts: Accounts) -> None:
    for ask in (
        lambda: accounts.disable("x"),
        lambda: accounts.enable("x"),
        lambda: accounts.set_password("x", PASSWORD),
    ):
        with pytest.raises(AccountError, match="'x' does not exist"):
            ask()


def test_changes_of_accounts_are_in_the_audit_log(accounts: Accounts, anna: Account) -> None:
    dora = Actor("dora", Role.OPERATOR)
    accounts.set_password("anna", "another password", by=dora)
    accounts.disable("anna", by=dora)
    accounts.enable("anna", by=dora)
    entries = accounts.audit.entries().items[::-1]
    assert [(entry.what, entry.actor, entry.subject, entry.hospital) for entry in entries] == [
        ("account.add", "system", "user anna", "north"),
        ("account.set_password", "dora", "user anna", "north"),
        ("account.disable", "dora", "user anna", "north"),
        ("account.enable", "dora", "user anna", "north"),
    ]
    assert accounts.audit.verify() == []


def test_a_session_is_its_users(accounts: Accounts, anna: Account) -> None:
    token = accounts.open_session("anna")
    assert accounts.session(token) == anna
    for wrong in ("", token[:-1], token + "x", token.lower(), "\ud800", sessions._hash(token)):
        assert accounts.session(wrong) is None
    accounts.close_session(token)
    assert accounts.session(token) is None
    accounts.close_session(token)


def test_only_a_tokens_hash_is_stored(accounts: Accounts, anna: Account, database: Path) -> None:
    token = accounts.open_session("anna")
    stored = dump(database)
    assert token not in stored
    assert sessions._hash(token) in stored
    assert PASSWORD not in stored


def test_tokens_have_256_bits_and_differ(accounts: Accounts, anna: Account) -> None:
    tokens = {accounts.open_session("anna") for _ in range(20)}
    assert len(tokens) == 20
    assert {len(token) for token in tokens} == {43}


def test_the_session_changes_at_login(accounts: Accounts, anna: Account) -> None:
    planted = accounts.open_session("anna")
    token = accounts.open_session("anna", old_token=planted)
    assert token != planted
    assert accounts.session(planted) is None
    assert accounts.session(token) == anna
    assert accounts.session(accounts.open_session("anna", old_token="chosen by somebody")) == anna
    assert accounts.session("chosen by somebody") is None


def test_close_all_ends_one_users_sessions(accounts: Accounts, anna: Account) -> None:
    accounts.add("berta", PASSWORD, Role.OPERATOR)
    other = accounts.open_session("berta")
    tokens = [accounts.open_session("anna") for _ in range(2)]
    assert accounts.close_all("ANNA") == 2
    assert [accounts.session(token) for token in tokens] == [None, None]
    assert accounts.session(other)


def test_a_session_ends_after_half_an_hour_of_nothing(
    accounts: Accounts, anna: Account, clock: Any
) -> None:
    token = accounts.open_session("anna")
    clock.pass_by(minutes=30)
    assert accounts.session(token) == anna
    clock.pass_by(minutes=30)
    assert accounts.session(token) == anna
    clock.pass_by(minutes=30, milliseconds=1)
    assert accounts.session(token) is None
    clock.pass_by(minutes=-20)
    assert accounts.session(token) == anna  # nothing but time decides; the next login sweeps


def test_a_session_in_use_ends_after_twelve_hours(
    accounts: Accounts, anna: Account, clock: Any
) -> None:
    token = accounts.open_session("anna")
    for _ in range(12 * 4):
        clock.pass_by(minutes=15)
        assert accounts.session(token) == anna
    clock.pass_by(milliseconds=1)
    assert accounts.session(token) is None


def test_times_of_a_session_can_be_set(
    url: str, clock: Any, hasher: PasswordHasher, anna: Account
) -> None:
    accounts = Accounts(
        url, clock, hasher=hasher, idle=timedelta(minutes=2), absolute=timedelta(minutes=5)
    )
    token = accounts.open_session("anna")
    clock.pass_by(minutes=2, seconds=1)
    assert accounts.session(token) is None


def test_sessions_that_ended_are_swept_away(
    accounts: Accounts, anna: Account, clock: Any, database: Path
) -> None:
    old = accounts.open_session("anna")
    clock.pass_by(hours=1)
    accounts.open_session("anna")
    assert sessions._hash(old) not in dump(database)


def test_a_session_survives_opening_again(
    accounts: Accounts, anna: Account, url: str, clock: Any
) -> None:
    token = accounts.open_session("anna")
    assert Accounts(url, clock).session(token) == anna


def test_using_a_session_writes_at_most_once_a_minute(
    accounts: Accounts, anna: Account, clock: Any, database: Path
) -> None:
    token = accounts.open_session("anna")
    stored = dump(database)
    clock.pass_by(seconds=59)
    accounts.session(token)
    assert dump(database) == stored
    clock.pass_by(seconds=1)
    accounts.session(token)
    assert dump(database) != stored


def waits(accounts: Accounts, clock: Any, user: str, address: str, tries: int) -> list[float]:
    seconds = []
    for _ in range(tries):
        assert accounts.check(user, WRONG, address) is None
        seconds.append(accounts.failures(user, address))
        clock.pass_by(seconds=seconds[-1])
    return seconds


@pytest.mark.parametrize("user", ["anna", "nobody"])
def test_waits_of_a_user_double(accounts: Accounts, anna: Account, clock: Any, user: str) -> None:
    assert waits(accounts, clock, user, "", 17) == [
        0,
        0,
        0,
        0,
        1,
        2,
        4,
        8,
        16,
        32,
        64,
        128,
        256,
        512,
        900,
        900,
        900,
    ]


def test_waits_of_an_address_double_over_all_its_users(accounts: Accounts, clock: Any) -> None:
    seconds = [waits(accounts, clock, f"user-{index}", "10.0.0.1", 1)[0] for index in range(24)]
    assert seconds == [0] * 19 + [1, 2, 4, 8, 16]
    assert accounts.failures("somebody", "10.0.0.1") == 0
    assert accounts.check("somebody", WRONG, "10.0.0.1") is None
    assert accounts.failures("somebody", "10.0.0.1") == 32
    assert accounts.failures("somebody", "10.0.0.2") == 0


def test_a_wait_is_kept_even_with_the_right_password(
    accounts: Accounts, anna: Account, clock: Any
) -> None:
    waits(accounts, clock, "anna", "", 6)
    accounts.check("anna", WRONG)
    assert accounts.failures("anna") == 4
    assert accounts.check("anna", PASSWORD) is None
    assert accounts.failures("anna") == 4  # asking too early makes nothing worse
    clock.pass_by(seconds=3)
    assert accounts.failures("anna") == 1
    clock.pass_by(seconds=1)
    assert accounts.check("anna", PASSWORD) == anna
    assert waits(accounts, clock, "anna", "", 4) == [0, 0, 0, 0]


def test_a_wait_survives_opening_again(
    accounts: Accounts, anna: Account, clock: Any, url: str, hasher: PasswordHasher
) -> None:
    waits(accounts, clock, "anna", "", 6)
    accounts.check("anna", WRONG)
    again = Accounts(url, clock, hasher=hasher)
    assert again.failures("anna") == 4
    assert again.check("anna", PASSWORD) is None


def test_a_right_password_does_not_wash_an_address_clean(
    accounts: Accounts, anna: Account, clock: Any
) -> None:
    for _ in range(19):
        accounts.check("victim", WRONG, "10.0.0.1")
        clock.pass_by(minutes=15)
        assert accounts.check("anna", PASSWORD, "10.0.0.1") == anna
    assert waits(accounts, clock, "other", "10.0.0.1", 1) == [1]


def test_failures_are_forgotten_after_a_day(
    accounts: Accounts, anna: Account, clock: Any, database: Path
) -> None:
    waits(accounts, clock, "anna", "10.0.0.1", 10)
    clock.pass_by(days=1, seconds=1)
    assert waits(accounts, clock, "anna", "10.0.0.1", 4) == [0, 0, 0, 0]
    clock.pass_by(days=1, seconds=1)
    accounts.check("berta", WRONG)
    with closing(sqlite3.connect(database)) as raw:
        assert raw.execute("SELECT count(*) FROM review_login_failure").fetchone() == (1,)


def test_many_at_once_do_not_slip_through(url: str, clock: Any) -> None:
    hasher = CountingHasher()
    accounts, start = Accounts(url, clock, hasher=hasher), threading.Barrier(12)

    def guess() -> None:
        start.wait()
        accounts.check("anna", WRONG)

    threads = [threading.Thread(target=guess) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hasher.verified) == login_delays.FREE_PER_USER


def test_what_was_typed_as_a_name_is_not_stored(accounts: Accounts, database: Path) -> None:
    accounts.check("my secret password", WRONG, "10.0.0.1")
    stored = dump(database)
    assert "my secret password" not in stored
    assert "10.0.0.1" not in stored


def test_no_secret_is_in_what_is_shown(
    accounts: Accounts,
    anna: Account,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("DEBUG")
    token = accounts.open_session("anna")
    accounts.check("anna", PASSWORD, "10.0.0.1")
    errors = []
    for ask in (
        lambda: accounts.add("anna", PASSWORD, Role.OPERATOR),
        lambda: accounts.add("a b", PASSWORD, Role.OPERATOR),
        lambda: accounts.add("berta", PASSWORD, Role.CLINICIAN),
        lambda: accounts.set_password("berta", PASSWORD),
    ):
        with pytest.raises(AccountError) as refused:
            ask()
        errors.append(str(refused.value))
    shown = "".join(
        [
            repr(accounts),
            repr(anna),
            repr(accounts.list()),
            caplog.text,
            *errors,
            *capsys.readouterr(),
        ]
    )
    for secret in (PASSWORD, token, sessions._hash(token), "$argon2"):
        assert secret not in shown
