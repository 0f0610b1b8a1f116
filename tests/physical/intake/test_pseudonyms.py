import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from physical.intake.pseudonyms import KEY_BYTES, PseudonymError, Pseudonyms, read_or_make_key

ONE, OTHER = Pseudonyms(b"a" * KEY_BYTES), Pseudonyms(b"b" * KEY_BYTES)


def test_pseudonyms_are_stable_and_differ_by_key_and_kind() -> None:
    assert ONE.of("patient", "7") == ONE.of("patient", "7")
    assert (
        len(
            {
                ONE.of("patient", "7"),
                OTHER.of("patient", "7"),
                ONE.of("study", "7"),
                ONE.of("patient", "8"),
            }
        )
        == 4
    )


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_parts_are_not_run_together(one: list[str], other: list[str]) -> None:
    assert (ONE.of("x", *one) == ONE.of("x", *other)) == (one == other)


def test_names_that_are_no_unicode_have_pseudonyms() -> None:
    assert ONE.of("file name", os.fsdecode(b"M\xfcller.dcm")) != ONE.of(
        "file name", os.fsdecode(b"M\xf6ller.dcm")
    )


@given(st.text(max_size=64))
def test_replaced_uids_are_valid(original: str) -> None:
    assert UID(ONE.uid(original)).is_valid
    assert len(ONE.uid(original)) <= 64


def test_the_key_is_created_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "pseudonyms.key"
    first = read_or_make_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_or_make_key(path).fingerprint() == first.fingerprint()
    assert list(path.parent.iterdir()) == [path]
    assert read_or_make_key(tmp_path / "other.key").fingerprint() != first.fingerprint()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    read_or_make_key(path)
    path.chmod(mode)
    with pytest.raises(PseudonymError, match="0600, its owner alone"):
        read_or_make_key(path)


@pytest.mark.parametrize("content", ["", "secret", "ab" * 31, "zz" * 32])
def test_a_damaged_key_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(PseudonymError, match="pseudonym key") as caught:
        read_or_make_key(path)
    assert not content or content not in str(caught.value)


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert path.parent.exists()
    made = read_or_make_key(path)
    key = path.read_text().strip()
    assert key not in repr(made)
    assert str(bytes.fromhex(key)) not in repr(made)


def test_threads_that_create_a_key_at_once_get_the_same_key(tmp_path: Path) -> None:
    for turn in range(10):
        path, together = tmp_path / f"key{turn}", threading.Barrier(4)
        found: list[str] = []

        def work(
            path: Path = path, together: threading.Barrier = together, found: list[str] = found
        ) -> None:
            together.wait(timeout=10)
            found.append(read_or_make_key(path).fingerprint())

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert len(set(found)) == 1
