import json
from pathlib import Path

import pytest

from benchmarks.measuring import in_fresh_process


def test_a_fresh_process_returns_the_object_of_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "said.json").write_text(json.dumps({"seconds": 2.5}), encoding="utf-8")
    assert in_fresh_process("json.tool", ["--compact", str(tmp_path / "said.json")]) == {
        "seconds": 2.5
    }


def test_a_fresh_process_that_fails_ends_the_benchmark_with_what_it_wrote(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"json\.tool .*absent.json: (?s:.)*No such file"):
        in_fresh_process("json.tool", [str(tmp_path / "absent.json")])
