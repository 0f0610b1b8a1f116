"""Versions of the model as of the last look into the store of models, which only a child process opens. Knows no MLflow.

``models/current.json`` names the version that serves and its folder; the release process writes it. ``registry.json`` is the list of
versions that the last such process reported.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.console.settings import write_private

CHAMPION = "champion"


@dataclass(frozen=True)
class Version:
    """One registered model.

    Args:
        version: Its number.
        aliases: Names that point to it.
        class_names: What it can name.
        created: When it was registered, UTC, ISO 8601.
        accuracy: On images that nobody trains on; none where it was not measured.
        facts: Everything else that its registry knows, as text.
    """

    version: str
    aliases: tuple[str, ...]
    class_names: tuple[str, ...]
    created: str
    accuracy: float | None
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Current:
    """The model that serves.

    Args:
        version: Its number.
        folder: Where it lies.
    """

    version: str
    folder: Path


class RegistryView:
    """What the web process knows of the store of models.

    Args:
        path: Of ``registry.json``.
        models_folder: Holds ``current.json``.
    """

    def __init__(self, path: Path, models_folder: Path) -> None:
        self.path, self.models_folder = path, models_folder

    def versions(self) -> tuple[Version, ...]:
        """Return all versions, newest first."""
        plain = _read(self.path)
        found = [_version(each) for each in plain.get("versions", [])]
        return tuple(sorted(found, key=lambda each: int(each.version), reverse=True))

    def champion(self) -> Version | None:
        """Return the version that serves."""
        current = self.current()
        versions = self.versions()
        if current is not None:
            return next((each for each in versions if each.version == current.version), None)
        return next((each for each in versions if CHAMPION in each.aliases), None)

    def current(self) -> Current | None:
        """Return version and folder of the model that serves; none before the first."""
        plain = _read(self.models_folder / "current.json")
        return (
            Current(str(plain["version"]), Path(plain["folder"]))
            if {"version", "folder"} <= plain.keys()
            else None
        )

    def champion_classes(self) -> tuple[str, ...]:
        """Return what the model that serves can name."""
        champion = self.champion()
        return champion.class_names if champion else ()

    def keep(self, versions: Sequence[Mapping[str, Any]]) -> None:
        """Remember what the store of models holds now."""
        write_private(self.path, json.dumps({"versions": list(versions)}, indent=1).encode())


def _version(plain: Mapping[str, Any]) -> Version:
    accuracy = plain.get("accuracy")
    facts = {str(name): str(value) for name, value in dict(plain.get("facts") or {}).items()}
    return Version(
        str(plain["version"]),
        tuple(plain["aliases"]),
        tuple(plain["class_names"]),
        str(plain["created"]),
        None if accuracy is None else float(accuracy),
        facts,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return plain if isinstance(plain, dict) else {}
