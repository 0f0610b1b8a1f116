import ast
import re
import subprocess
import sys
from collections.abc import Collection
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, cast

import pytest

from federation.methods import METHODS

ROOT = Path(__file__).parents[1]
PRODUCT = ("physical", "incremental", "twin", "federation")


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("name", ["physical", "incremental", "twin", "federation"])
def test_the_four_packages_are_ours(name: str) -> None:
    assert Path(cast(Any, __import__(name).__file__)).parents[1] == ROOT


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
        r"torch\.manual_seed|np\.random\.seed|random\.seed\(|"
        r"np\.random\.(rand|randn|randint|shuffle|permutation)\("
    )
    for folder in ("physical", "incremental", "twin", "federation"):
        for path in (ROOT / folder).rglob("*.py"):
            if str(path.relative_to(ROOT)) not in allowed:
                assert not wrong.search(path.read_text()), path


def test_every_command_of_the_readme_exists() -> None:
    from typer.main import get_command

    from federation.cli import _mount, app

    _mount()
    commands = get_command(app).commands  # type: ignore[attr-defined]  # looked up where it is used
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


def imported_modules(path: Path) -> set[str]:
    """Return the names of modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
    return found


def import_graph() -> dict[str, set[str]]:
    """Return the modules that each module of the product imports."""
    paths = {}
    for folder in PRODUCT:
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: imported_modules(path) & paths.keys() for name, path in paths.items()}


def folder_of(module: str) -> str:
    """Return the folder of a module: of federation its rooms, and its heart file by file."""
    first, *rest = module.split(".")
    return f"{first}.{rest[0]}" if first == "federation" and rest else first


def longest_chain(graph: dict[str, set[str]], uncounted: Collection[str] = ()) -> int:
    """Return the number of counted nodes of the longest chain.

    Raises:
        CycleError: If there is a circle.
    """
    depth: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        below = max((depth[each] for each in graph.get(name, ())), default=0)
        depth[name] = below + (name not in uncounted)
    return max(depth.values())


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = import_graph()
    for name, imported in graph.items():
        # A package's own file may name what its modules define: that is no circle of modules.
        imported -= {name, *(each for each in imported if name.startswith(f"{each}."))}
    assert longest_chain(graph) > 1


def test_folders_import_downwards_in_at_most_nine_steps() -> None:
    folders: dict[str, set[str]] = {}
    heart = {f"federation.{each}" for each in ("server", "method", "round", "seeding", "__main__")}
    for name, imported in import_graph().items():
        own = folder_of(name)
        below = {folder_of(each) for each in imported} - {own, "federation"}
        folders.setdefault(own, set()).update(below)
    assert longest_chain(folders, uncounted=heart) <= 9


def test_federation_has_no_loose_file_but_the_heart() -> None:
    files = {path.name for path in (ROOT / "federation").glob("*.py")}
    heart = {"round.py", "server.py", "method.py", "seeding.py"}
    assert files == {"__init__.py", "__main__.py", *heart}
