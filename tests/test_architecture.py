import re
import subprocess
import sys
from pathlib import Path

import pytest

from federation.methods import METHODS

ROOT = Path(__file__).parents[1]


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("name", ["physical", "incremental", "twin", "federation"])
def test_the_four_packages_are_ours(name: str) -> None:
    assert Path(__import__(name).__file__).parents[1] == ROOT


def test_the_training_core_loads_nothing_that_it_does_not_need() -> None:
    loaded = modules_after(
        "import federation.round, federation.engines, federation.methods, physical.scenario"
    )
    assert not loaded & {
        "mlflow",
        "monai",
        "medmnist",
        "pytorch_grad_cam",
        "matplotlib",
        "rich",
        "typer",
        "PIL",
        "sklearn",
        "pandas",
    }


def test_the_command_line_answers_without_loading_torch() -> None:
    loaded = modules_after("from federation.cli import _mount; _mount()")
    assert not loaded & {"torch", "mlflow", "monai", "matplotlib", "pytorch_grad_cam"}


def test_every_method_opens_with_its_source() -> None:
    for name, kind in METHODS.items():
        text = sys.modules[kind.__module__].__doc__ or ""
        assert "Source:" in text, name


def test_every_method_has_its_row_in_reproducibility() -> None:
    rows = (ROOT / "REPRODUCIBILITY.md").read_text()
    assert all(f"`{name}`" in rows for name in METHODS)


def test_global_randomness_stays_out_of_the_code() -> None:
    allowed = {
        "incremental/network.py",
        "incremental/reconstruction.py",
    }  # lend torch's layers a seeded stream and give it back
    wrong = re.compile(
        r"torch\.manual_seed|np\.random\.seed|random\.seed\(|np\.random\.(rand|randn|randint|shuffle|permutation)\("
    )
    for folder in ("physical", "incremental", "twin", "federation"):
        for path in (ROOT / folder).rglob("*.py"):
            if str(path.relative_to(ROOT)) not in allowed:
                assert not wrong.search(path.read_text()), path


def test_every_command_of_the_readme_exists() -> None:
    from typer.main import get_command

    from federation.cli import _mount, app

    _mount()
    commands = get_command(app).commands
    for line in re.findall(r"^fedka (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert line in commands


def test_no_file_names_a_package_registry_or_a_path_of_one_machine() -> None:
    wrong = re.compile("py" + r"pi\.org|python" + r"hosted|npm" + r"js\.org|/wo" + "rk/ma" + "in")
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in files:
        if (ROOT / name).suffix in {".py", ".md", ".toml", ".yaml", ".j2"} or "." not in name:
            assert not wrong.search((ROOT / name).read_text(encoding="utf-8", errors="ignore")), (
                name
            )
