import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from safetensors.torch import load_file
from torch import Tensor

from federation.comparison.suite import load_suite
from federation.experiment.config import load_experiment
from federation.experiment.loop import run_experiment
from federation.methods import METHODS

ROOT = Path(__file__).parents[1]
TINY = ROOT / "hospital_configs" / "phantom_tiny"
QUICK = ("training.epochs=1", "tracking.enabled=false")
BLOCKS = re.findall(
    r"^```(python|yaml)\n(.*?)^```",
    (ROOT / "CONTRIBUTING.md").read_text(),
    re.MULTILINE | re.DOTALL,
)
METHOD, REGISTRATION, TEST = (code for language, code in BLOCKS if language == "python")
(SUITE,) = (code for language, code in BLOCKS if language == "yaml")


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    path = tmp_path / "lwf.py"
    path.write_text(METHOD)
    spec = importlib.util.spec_from_file_location("federation.methods.lwf", path)
    module = importlib.util.module_from_spec(cast(Any, spec))
    monkeypatch.setitem(sys.modules, "federation.methods.lwf", module)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module)
    monkeypatch.setitem(METHODS, "lwf", module.LwF)  # undone after the test
    exec(REGISTRATION, {"METHODS": METHODS, "LwF": module.LwF})
    return module.LwF


@pytest.fixture
def run(registered: type[Any], tmp_path: Path) -> Callable[..., Any]:
    def of(method: str) -> dict[str, Tensor]:
        out = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        run_experiment(load_experiment(TINY, [f"method={method}", *QUICK]), out)
        return load_file(out / "models" / "task-1" / "weights.safetensors")

    return of


def test_the_method_has_fewer_than_forty_lines_of_code() -> None:
    lines = [line for block in (METHOD, REGISTRATION, TEST) for line in block.splitlines()]
    assert len([line for line in METHOD.splitlines() if line.strip()]) < 40
    assert max(map(len, lines)) <= 100


def test_the_method_of_the_page_trains_and_its_distillation_takes_part(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    run("{name: lwf, temperature: 4}")
    records = (next(tmp_path.glob("run-*")) / "records.jsonl").read_text()
    assert '"semantic"' in records


def test_the_reduction_test_of_the_page_passes(run: Callable[..., Any]) -> None:
    space: dict[Any, Any] = {}
    exec(TEST, space)
    space["test_lwf_without_distillation_is_fedavg"](run)


def test_the_suite_of_the_page_is_fair_and_complete(registered: type[Any], tmp_path: Path) -> None:
    place = tmp_path / "suites" / "lwf.yaml"
    place.parent.mkdir()
    place.write_text(SUITE.replace("../phantom_tiny", str(TINY)))
    assert [label for _, label in load_suite(place).configs] == ["finetune", "LwF+FL", "FedKA"]


def test_the_method_is_listed_with_its_hyper_parameters(
    registered: type[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from federation.cli.inspect import methods

    methods()
    said = capsys.readouterr().out
    assert "lwf" in said and "temperature = 2.0" in said


def test_every_command_of_the_page_exists() -> None:
    from typer.main import get_command

    from federation.cli import _mount, app

    _mount()
    known = {*get_command(app).commands, "compare"}  # type: ignore[attr-defined]  # looked up where it is used
    used = re.findall(r"^ {4}fedka (\w+)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert used and set(used) <= known
