"""Versions of the model in the model registry, read from two JSON files that other processes write.

``models/current.json`` names the serving version and its folder; the release process writes it.
``registry.json`` lists the versions that the last process with access to MLflow reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.console.files import read_json, write_json

CHAMPION = "champion"


@dataclass(frozen=True)
class Version:
    """One registered version of the model.

    Args:
        version: Its number.
        aliases: Names that point to it.
        class_names: Classes that it can predict.
        created: When it was registered, UTC, ISO 8601.
        accuracy: On held-out images, in [0, 1]; None if not measured.
        facts: All other tags in the registry, as text.
    """

    version: str
    aliases: tuple[str, ...]
    class_names: tuple[str, ...]
    created: str
    accuracy: float | None
    facts: Mapping[str, str]


@dataclass(frozen=True)
class ServingModel:
    """The model that serves.

    Args:
        version: Its number.
        folder: Folder of its files.
    """

    version: str
    folder: Path


class RegistryView:
    """What the web process knows about the model registry.

    Args:
        path: Of ``registry.json``.
        models_folder: Folder of ``current.json``.
    """

    def __init__(self, path: Path, models_folder: Path) -> None:
        self.path, self.models_folder = path, models_folder

    def versions(self) -> tuple[Version, ...]:
        """Return all versions, newest first."""
        found = [_version(each) for each in (read_json(self.path) or {}).get("versions", [])]
        return tuple(sorted(found, key=lambda each: int(each.version), reverse=True))

    def champion(self) -> Version | None:
        """Return the version that serves."""
        serving, versions = self.serving_model(), self.versions()
        if serving is not None:
            return next((each for each in versions if each.version == serving.version), None)
        return next((each for each in versions if CHAMPION in each.aliases), None)

    def serving_model(self) -> ServingModel | None:
        """Return version and folder of the model that serves; None before the first."""
        plain = read_json(self.models_folder / "current.json") or {}
        if not {"version", "folder"} <= plain.keys():
            return None
        return ServingModel(str(plain["version"]), Path(plain["folder"]))

    def champion_classes(self) -> tuple[str, ...]:
        """Return the classes that the serving model can predict."""
        champion = self.champion()
        return champion.class_names if champion else ()

    def save_versions(self, versions: Sequence[Mapping[str, Any]]) -> None:
        """Save the versions that a process found in the registry."""
        write_json(self.path, {"versions": list(versions)})


def _version(plain: Mapping[str, Any]) -> Version:
    accuracy = plain.get("accuracy")
    return Version(
        str(plain["version"]),
        tuple(plain["aliases"]),
        tuple(plain["class_names"]),
        str(plain["created"]),
        None if accuracy is None else float(accuracy),
        {str(name): str(value) for name, value in (plain.get("facts") or {}).items()},
    )
