"""The digest of a run's code changes with what can change a result, and with nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from federation.experiment.training_code import canonical, modules_of_a_run, training_code_digest
from federation.methods import METHODS
from federation.methods.fedavg import FedAvg
from federation.methods.fedka import FedKA

ROOT = Path(__file__).parents[3]
SOURCE = '''
"""What is here."""

def double(number: int = 2) -> int:
    """Return twice the number."""
    return 2 * number  # the sum of two
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""What is here."""', '"""Doubles numbers."""'),
        ('    """Return twice the number."""\n', ""),
        ("# the sum of two", "# doubled"),
        ("return 2 * number", "return (\n        2 * number\n    )"),
    ],
)
def test_docstrings_comments_and_layout_do_not_count(old: str, new: str) -> None:
    assert old in SOURCE
    assert canonical(SOURCE.replace(old, new)) == canonical(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"), [("2 * number", "3 * number"), ("= 2", "= 3"), ("double", "twice")]
)
def test_what_can_change_a_result_counts(old: str, new: str) -> None:
    assert canonical(SOURCE.replace(old, new)) != canonical(SOURCE)


def test_a_method_depends_on_its_own_file_and_on_no_other_method() -> None:
    modules = modules_of_a_run("federation.methods.fedka")
    methods = {name for name in modules if name.startswith("federation.methods.")}
    assert methods == {"federation.methods.fedka", "federation.methods.prototypes"}


def test_a_run_depends_on_the_learning_and_not_on_the_reports() -> None:
    modules = modules_of_a_run("federation.methods.fedavg")
    learning = "federation.round federation.server twin.local_training twin.losses incremental.head"
    assert {*learning.split(), "physical.planning", "incremental.network"} <= modules
    aside = ("report", "comparison", "tracking", "console", "cli", "flare")
    assert not {name for name in modules for each in aside if f"federation.{each}" in name}


def test_each_method_has_a_digest_of_its_own_and_settings_do_not_count() -> None:
    digests = {training_code_digest(method()) for method in METHODS.values()}
    assert len(digests) == len(METHODS)
    assert training_code_digest(FedAvg()) == training_code_digest(FedAvg(memory=True))


SCRIPT = """
import json, sys
from pathlib import Path
from federation.experiment import training_code
def digests():
    training_code._digest.cache_clear()
    training_code._module.cache_clear()
    return [training_code._digest(f"federation.methods.{name}") for name in ("fedavg", "fedka")]
found = [digests()]
for name in ("federation/methods/fedka.py", "twin/losses.py"):
    place = Path(name)
    place.write_text(place.read_text() + "\\nMORE = 1\\n")
    found.append(digests())
print(json.dumps(found))
"""


def test_a_changed_file_changes_the_digest_of_the_methods_that_import_it(tmp_path: Path) -> None:
    for package in ("federation", "twin", "physical", "incremental"):
        for path in (ROOT / package).rglob("*.py"):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    before, with_another_fedka, with_other_losses = json.loads(done.stdout)
    assert before == [training_code_digest(FedAvg()), training_code_digest(FedKA())]
    assert with_another_fedka[0] == before[0] and with_another_fedka[1] != before[1]
    assert with_other_losses[0] != before[0]
