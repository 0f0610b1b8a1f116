import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from federation.engines.twin_states import StateFolder
from federation.flare.link_messages import describe

PATIENT = "DOE^JANE"


def caught(call: Callable[..., Any]) -> Any:
    with pytest.raises(Exception) as info:
        call()
    return info.value


def read_file() -> None:
    raise FileNotFoundError(
        errno.ENOENT, "No such file or directory", f"/archive/{PATIENT}/0001.dcm"
    )


def wrapped() -> None:
    try:
        read_file()
    except OSError as error:
        raise ValueError(f"slice of {PATIENT} is not readable") from error


@pytest.mark.parametrize("call", [read_file, wrapped])
def test_an_errors_own_words_stay_in_the_hospital(call: Callable[..., Any]) -> None:
    text = describe(caught(call))
    assert PATIENT not in text and "archive" not in text
    assert "FileNotFoundError (No such file or directory)" in text


def test_what_caused_it_is_said_as_well() -> None:
    assert describe(caught(wrapped)).startswith("ValueError, after FileNotFoundError")


def test_the_place_in_our_own_code_is_said(tmp_path: Path) -> None:
    assert describe(caught(lambda: StateFolder(tmp_path)[PATIENT])).startswith(
        "KeyError at federation.engines.twin_states:"
    )


def test_a_full_disk_is_named() -> None:
    assert describe(OSError(errno.ENOSPC, "whatever")) == "OSError (No space left on device)"


def test_a_chain_of_errors_is_cut_short() -> None:
    error = None
    for _ in range(50):
        link = RuntimeError(PATIENT)
        link.__cause__ = error
        error = link
    assert describe(cast(Any, error)) == ", after ".join(["RuntimeError"] * 4)
