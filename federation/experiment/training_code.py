"""Digest of the code that a training runs: tells whether a result was made by today's code.

The digest covers the loop over rounds, the method's own file and every module of this program that
these import, directly or not. Comments, docstrings and layout do not count, nor do other methods'
files: a change that cannot change a result keeps the digest.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_LOOP = "federation.experiment.loop"
# The list of methods imports every method, and a run trains with one. Tracking only copies.
_LEFT_OUT = ("federation.methods", "federation.tracking")
_PACKAGES = ("federation", "twin", "physical", "incremental")
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def training_code_digest(method: object) -> str:
    """Return the digest of all code that a run with this method imports.

    Args:
        method: The method; its class's module is where the search begins, beside the loop.

    Returns:
        16 hexadecimal digits.
    """
    return _digest(type(method).__module__)


@cache
def _digest(method_module: str) -> str:
    """Return a method's digest; read once, since the process goes on with the code that it has."""
    digest = hashlib.sha256()
    for name in sorted(modules_of_a_run(method_module)):
        digest.update(f"{name} {_module(name).digest}\n".encode())
    return digest.hexdigest()[:16]


def modules_of_a_run(method_module: str) -> set[str]:
    """Return the names of all modules of this program that a run with a method imports."""
    found: set[str] = set()
    waiting = [_LOOP, method_module]
    while waiting:
        name = waiting.pop()
        if name not in found and name not in _LEFT_OUT:
            found.add(name)
            waiting += _module(name).imports
    return found


def canonical(source: str) -> str:
    """Return a text that is equal for two sources of one meaning.

    Two sources that differ in comments, docstrings or layout give the same text. So do two versions
    of Python, whose own ``ast.dump`` may differ.
    """
    return _text(ast.parse(source))


def _text(node: Any) -> str:
    if isinstance(node, list):
        return "[" + ",".join(map(_text, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node) is not None:
        fields["body"] = fields["body"][1:]
    parts = (f"{name}={_text(value)}" for name, value in fields.items() if value not in (None, []))
    return f"{type(node).__name__}({','.join(parts)})"


def _imported(source: str) -> Iterator[str]:
    """Yield every module of this program that a source imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
            yield node.module
            for alias in node.names:
                if _file(f"{node.module}.{alias.name}") is not None:
                    yield f"{node.module}.{alias.name}"


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in _PACKAGES


@cache
def _file(module: str) -> Path | None:
    """Return a module's file; none where there is no such module."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin)


@dataclass(frozen=True)
class _Module:
    """What one module imports of this program, and the digest of its canonical source."""

    imports: tuple[str, ...]
    digest: str


@cache
def _module(name: str) -> _Module:
    """Read a module once; most of them are shared by all methods."""
    path = _file(name)
    if path is None:
        raise ModuleNotFoundError(f"no source of {name}; got no file, needed to digest its code")
    source = path.read_text(encoding="utf-8")
    digest = hashlib.sha256(canonical(source).encode()).hexdigest()
    return _Module(tuple(_imported(source)), digest)
