"""YAML files into configuration dataclasses, with errors that say what, got, allowed, what to do.

Knows no experiment: ``federation.experiment.config`` says what one is made of.
"""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pydantic
import yaml
from pydantic import TypeAdapter


class ConfigError(ValueError):
    """A configuration that cannot be run: what, got, allowed, what to do."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a file.

    Raises:
        ConfigError: If it is not YAML, or holds something else.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"), path.name)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not readable YAML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path.name} holds {type(raw).__name__}; expected 'key: value' lines")
    return raw


def parse_yaml(text: str, where: str) -> Any:
    """Return what a YAML text says.

    Args:
        text: YAML.
        where: What errors call the place.

    Raises:
        ConfigError: If it is no YAML, has a key twice, or a number that is not finite.
    """
    try:
        value = yaml.load(text, _StrictLoader)  # noqa: S506  # a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not readable YAML: {error}") from None
    check_finite(value, where)
    return value


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, for which a key that stands twice is an error: the last one would win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} stands twice", key.start_mark
                )
            if isinstance(key.value, str):
                seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def check_finite(value: Any, where: str) -> None:
    """Check that all numbers in plain data are finite.

    Raises:
        ConfigError: Naming the first that is not.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}; allowed: a finite number")
    if isinstance(value, dict):
        for key, each in value.items():
            check_finite(each, f"{where}: {key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            check_finite(each, f"{where}[{index}]")


def build(kind: type[Any], values: Any, where: str) -> Any:
    """Return one configuration.

    Args:
        kind: Its dataclass.
        values: Keys and values.
        where: What errors call the place.

    Raises:
        ConfigError: With every finding.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}; expected 'key: value' lines")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except pydantic.ValidationError as error:
        raise ConfigError(explained(error, where, kind)) from None


def explained(error: pydantic.ValidationError, where: str, kind: type[Any]) -> str:
    """Return the findings of pydantic, one a line.

    Args:
        error: What it raised.
        where: What the findings call the place.
        kind: The configuration that was to be built.
    """
    return "\n".join(_explain(each, where, kind) for each in error.errors())


def _explain(error: Any, where: str, kind: type[Any]) -> str:
    location = [str(part) for part in error["loc"]]
    at = f"{where}: {'.'.join(location)}" if location else where
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _keys_at(kind, location[:-1])
        advice = f"known: {', '.join(known)}. {suggestion(location[-1], known)}"
        return f"{at} is not a known key; {advice}".strip()
    if error["type"] in ("missing", "missing_argument"):
        return f"{at} is missing; add it"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{at}: {message}"
    return f"{at} is {error['input']!r}; {message[0].lower()}{message[1:]}"


def _keys_at(kind: type[Any], location: Sequence[str]) -> list[str]:
    for part in location:
        hints = get_type_hints(kind)
        if part in hints:
            kind = next(
                (
                    each
                    for each in (hints[part], *get_args(hints[part]))
                    if dataclasses.is_dataclass(each)
                ),
                kind,
            )  # type: ignore[assignment]  # pydicom takes text too
    return [field.name for field in dataclasses.fields(kind)]


def suggestion(given: str, known: Iterable[str]) -> str:
    """Return "Did you mean ...?" for the nearest known name; empty where none is near."""
    close = difflib.get_close_matches(given, list(known), 1)
    return f"Did you mean {close[0]!r}?" if close else ""
