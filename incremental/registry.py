"""Model registry: versions with their facts, the champion that serves, and roll-back.

It adds to MLflow a rule for accepting a version, with its reason, and a history of champions for
roll-back (MLflow keeps only the present target of an alias). It always names the store explicitly
and leaves MLflow's process-wide state alone.
"""

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from incremental.model_file import ModelError, load_model, replace_folder
from incremental.model_store import RegistryError, check_uri, open_store, upload_model
from incremental.network import IncrementalNetwork

__all__ = [
    "CHAMPION",
    "PREVIOUS",
    "ModelRegistry",
    "ModelVersion",
    "RegistryError",
    "refusal_reason",
]

CHAMPION, PREVIOUS = "champion", "previous"
_REFUSED_PREFIX = "refused: "
_MAX_HISTORY = 50  # champions; MLflow bounds the length of a tag


@dataclass(frozen=True)
class ModelVersion:
    """One registered model.

    Args:
        version: Its number.
        aliases: Names that point to it, such as ``champion`` and ``previous``.
        class_names: Its classes.
        created: When it was registered.
        run_id: The MLflow run it comes from.
        facts: All its tags: round, score, test_accuracy, digest, dataset, dataset_digest,
            code_version, acceptance, ... as text.
    """

    version: int
    aliases: tuple[str, ...]
    class_names: tuple[str, ...]
    created: datetime
    run_id: str
    facts: Mapping[str, str]

    @property
    def accuracy(self) -> float | None:
        """Accuracy on images that are never trained on; none if it was not measured."""
        text = self.facts.get("test_accuracy", self.facts.get("validation_accuracy"))
        return None if text is None else float(text)


def refusal_reason(
    class_names: Sequence[str],
    accuracy: float | None,
    champion_class_names: Sequence[str],
    minimum_accuracy: float = 0.0,
) -> str | None:
    """Return why a candidate must not become champion; none if it may.

    Args:
        class_names: Classes of the candidate.
        accuracy: Accuracy of the candidate on images that are never trained on.
        champion_class_names: Classes of the champion; empty if there is none.
        minimum_accuracy: Least accuracy, in [0, 1].
    """
    missing = [name for name in champion_class_names if name not in class_names]
    if missing:
        return (
            f"does not know {len(missing)} of the champion's {len(champion_class_names)} classes: "
            f"{', '.join(missing[:5])}"
        )
    if accuracy is None or not math.isfinite(accuracy):
        return "has no measured accuracy" if accuracy is None else f"has an accuracy of {accuracy}"
    if accuracy < minimum_accuracy:
        return f"has an accuracy of {accuracy:.4f}; the least allowed is {minimum_accuracy:.4f}"
    return None


class ModelRegistry:
    """Versions of one registered model.

    Args:
        tracking_uri: Address of the MLflow store: ``sqlite:///...`` or ``http(s)://...``.
        name: Name of the registered model.

    Raises:
        RegistryError: If the store cannot be opened.
    """

    def __init__(self, tracking_uri: str, name: str) -> None:
        self.tracking_uri = check_uri(tracking_uri)
        self.name = name
        with _registry_errors(f"opening the store {self.tracking_uri}"):
            self._client = open_store(self.tracking_uri)

    def register(
        self,
        model_folder: Path,
        run_id: str,
        tags: Mapping[str, str],
        input_example: NDArray[np.uint8] | None = None,
    ) -> int:
        """Store a model as a new version, unless this run has stored it before.

        Args:
            model_folder: Folder written by ``save_model``; it is checked first.
            run_id: The MLflow run it comes from.
            tags: Facts of the version besides those of the manifest.
            input_example: 8-bit images, shape [N, H, W, C]; none: one black image.

        Returns:
            The version's number.

        Raises:
            ModelError: If the folder is damaged.
            RegistryError: If the store refuses.
        """
        network, manifest = load_model(model_folder)
        for known in self.list_versions():
            if (known.run_id, known.facts.get("digest")) == (run_id, manifest["digest"]):
                return known.version
        if input_example is None:
            side = network.config.image_size
            input_example = np.zeros((1, side, side, network.config.channels), np.uint8)
        with _registry_errors(f"registering {model_folder}"):
            self._make_registered_model()
            model_id, place = upload_model(self._client, model_folder, run_id, input_example)
            facts = {**_as_tags(manifest), **tags}
            made = self._client.create_model_version(
                self.name, place, run_id=run_id, tags=facts, model_id=model_id
            )
            return int(made.version)

    def list_versions(self) -> list[ModelVersion]:
        """Return all versions, oldest first."""
        with _registry_errors(f"listing the versions of {self.name}"):
            found, token = [], None
            while True:
                page = self._client.search_model_versions(f"name = '{self.name}'", page_token=token)
                found += page
                if not (token := page.token):
                    break
            aliases = self._aliases() if found else {}
            return sorted(
                (_model_version(each, aliases) for each in found), key=lambda each: each.version
            )

    def find(self, which: str | int) -> ModelVersion:
        """Return the version with a number or an alias.

        Raises:
            RegistryError: If there is none.
        """
        versions = self.list_versions()
        for version in versions:
            if str(which) in (str(version.version), *version.aliases):
                return version
        names = (
            str(each.version) + "".join(f" ({alias})" for alias in each.aliases)
            for each in versions
        )
        known = ", ".join(names) or "none yet"
        raise RegistryError(
            f"model {self.name!r} has no version or alias {str(which)!r}; known: {known}; choose "
            "one of these, or another store or name"
        )

    def champion(self) -> ModelVersion | None:
        """Return the version that serves; none if none was accepted yet."""
        return next((each for each in self.list_versions() if CHAMPION in each.aliases), None)

    def accept(self, version: int, minimum_accuracy: float = 0.0) -> str | None:
        """Make a version the champion unless ``refusal_reason`` gives a reason against it.

        The decision is kept as tag ``acceptance``. A further call returns it and changes nothing.

        Returns:
            Why it was refused; none if it was accepted.
        """
        candidate, champion = self.find(version), self.champion()
        if decided := candidate.facts.get("acceptance"):
            return (
                decided.removeprefix(_REFUSED_PREFIX)
                if decided.startswith(_REFUSED_PREFIX)
                else None
            )
        known = champion.class_names if champion else ()
        reason = refusal_reason(candidate.class_names, candidate.accuracy, known, minimum_accuracy)
        if reason is None:
            self.promote(version)
        self.tag(version, "acceptance", "accepted" if reason is None else _REFUSED_PREFIX + reason)
        return reason

    def promote(self, version: int) -> None:
        """Make a version the champion without conditions; the old champion becomes ``previous``."""
        self.find(version)
        history = self._history()
        if history[-1:] != [version]:
            history.append(version)
        with _registry_errors(f"promoting version {version}"):
            self._save_champions(history)

    def rollback(self) -> ModelVersion:
        """Make the previous champion the champion again.

        Returns:
            The new champion.

        Raises:
            RegistryError: If there is no previous champion.
        """
        history = self._history()
        if len(history) < 2:
            now = f"version {history[0]}, which replaced none" if history else "none"
            raise RegistryError(
                f"model {self.name!r} cannot be rolled back: its champion is {now}; needed: an "
                "earlier champion; promote a version instead"
            )
        withdrawn = history.pop()
        with _registry_errors(f"rolling back to version {history[-1]}"):
            self.tag(withdrawn, "acceptance", "rolled back")
            self._save_champions(history)
        return self.find(history[-1])

    def tag(self, version: int, key: str, value: str) -> None:
        """Write one fact of a version; an older one with the same key is replaced."""
        with _registry_errors(f"tagging version {version}"):
            self._client.set_model_version_tag(self.name, str(version), key, value)

    def load(self, which: str | int = CHAMPION) -> tuple[IncrementalNetwork, dict[str, Any]]:
        """Return the network and the manifest of a version or alias; its digest is checked."""
        with tempfile.TemporaryDirectory() as folder:
            return load_model(self._download(self.find(which).version, folder))

    def fetch(self, version: int, folder: Path) -> Path:
        """Copy a version's model out of the store.

        Args:
            version: Its number.
            folder: The model's own folder; appears whole or not at all. If it holds this very model
                already, it stays as it is.

        Returns:
            ``folder``.

        Raises:
            ModelError: If the stored model is not the one that was saved.
            RegistryError: If there is no such version, or the store does not answer.
        """
        digest = self.find(version).facts.get("digest")
        if folder.exists() and _holds_model(folder, digest):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            place = self._download(version, temporary)
            if not _holds_model(place, digest):
                raise ModelError(
                    f"version {version} of {self.name!r} is not the model with the digest "
                    f"{digest}; register the model again"
                )
            replace_folder(place, folder)
        return folder

    def _download(self, version: int, folder: str) -> Path:
        with _registry_errors(f"fetching version {version}"):
            from mlflow.artifacts import download_artifacts
            from mlflow.models import Model

            source = self._client.get_model_version_download_uri(self.name, str(version))
            place = download_artifacts(source, dst_path=folder, tracking_uri=self.tracking_uri)
            flavor = Model.load(place).flavors["python_function"]
            return Path(place, flavor["artifacts"]["model"]["path"])

    def _make_registered_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _aliases(self) -> dict[str, int]:
        aliases = self._client.get_registered_model(self.name).aliases
        return {alias: int(version) for alias, version in aliases.items()}

    def _history(self) -> list[int]:
        """Return all champions, oldest first, including one that was set in MLflow by hand."""
        existing = {each.version for each in self.list_versions()}
        if not existing:
            return []
        with _registry_errors(f"reading the history of {self.name}"):
            model = self._client.get_registered_model(self.name)
            history = [
                version
                for version in json.loads(model.tags.get("history", "[]"))
                if version in existing
            ]
            champion = model.aliases.get(CHAMPION)
        if champion is not None and history[-1:] != [int(champion)]:
            history.append(int(champion))
        return history

    def _save_champions(self, history: Sequence[int]) -> None:
        """Save the history, then set the aliases; a repeated call completes one that failed."""
        self._client.set_registered_model_tag(
            self.name, "history", json.dumps(list(history[-_MAX_HISTORY:]))
        )
        self._client.set_registered_model_alias(self.name, CHAMPION, str(history[-1]))
        if len(history) > 1:
            self._client.set_registered_model_alias(self.name, PREVIOUS, str(history[-2]))
        elif PREVIOUS in self._aliases():
            self._client.delete_registered_model_alias(self.name, PREVIOUS)


def _holds_model(folder: Path, digest: str | None) -> bool:
    """Return whether a folder holds the unchanged model of a digest."""
    try:
        return bool(load_model(folder)[1]["digest"] == digest)
    except ModelError:
        return False


def _as_tags(manifest: Mapping[str, Any]) -> dict[str, str]:
    plain = {
        key: str(value) for key, value in manifest.items() if isinstance(value, str | int | float)
    }
    return {
        **plain,
        "class_names": json.dumps(manifest["class_names"]),
        "architecture": json.dumps(manifest["architecture"]),
    }


def _model_version(version: Any, aliases: Mapping[str, int]) -> ModelVersion:
    number = int(version.version)
    return ModelVersion(
        number,
        tuple(sorted(alias for alias, target in aliases.items() if target == number)),
        tuple(json.loads(version.tags.get("class_names", "[]"))),
        datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        version.run_id or "",
        dict(version.tags),
    )


@contextmanager
def _registry_errors(what: str) -> Iterator[None]:
    """Turn errors of MLflow, requests and SQLAlchemy into ``RegistryError``."""
    try:
        yield
    except (RegistryError, ModelError):
        raise
    except Exception as error:
        raise RegistryError(
            f"{what} failed: {type(error).__name__}: {error}; needed: an MLflow store that "
            "answers; check the address and try again"
        ) from error
