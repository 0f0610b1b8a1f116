import json
from pathlib import Path

import pytest

from federation.flare.event_feed import STATUS
from federation.flare.site_status import note_answer


def test_what_was_answered_last_stands_in_the_hospitals_own_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    note_answer(tmp_path, "west", "train", lambda: 3, "")
    said = json.loads((tmp_path / STATUS).read_text())
    assert said.pop("at").endswith("+00:00")
    assert said == {"hospital": "west", "verb": "train", "last_round": 3, "fault": ""}
    note_answer(
        tmp_path,
        "west",
        "train",
        lambda: 3,
        "OSError (No space left on device) at federation.engines.twin_states:70",
    )
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("INFO", "answered train, last round 3"),
        (
            "WARNING",
            "answered train, last round 3: OSError (No space left on device) at "
            "federation.engines.twin_states:70",
        ),
    ]
    assert "No space left" in json.loads((tmp_path / STATUS).read_text())["fault"]


def test_a_file_that_cannot_be_written_is_no_reason_not_to_answer(tmp_path: Path) -> None:
    note_answer(tmp_path / "nowhere", "west", "observe", lambda: 1, "")

    def broken() -> int:
        raise ValueError("a state that cannot be read")

    note_answer(tmp_path, "west", "observe", broken, "")
    assert not (tmp_path / STATUS).exists()
