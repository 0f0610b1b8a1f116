"""Model registry: versions with their facts, the champion that serves, and roll-back.

What MLflow lacks and this file adds: a rule for acceptance with its reason, and a history of
champions to roll back through (MLflow keeps only where an alias points now). Everything is
addressed by an explicit store; nothing here touches MLflow's process-wide state. Knows no run
folder.
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

from incremental.model_file import ModelError, load_model, put_in_place
from incremental.model_store import RegistryError, check_uri, open_store, upload_model
from incremental.network import IncrementalNetwork

__all__ = ["CHAMPION", "PREVIOUS", "ModelRegistry", "ModelVersion", "RegistryError", "objection"]

CHAMPION, PREVIOUS = "champion", "previous"
_REFUSED = "refused: "
_REMEMBERED = 50  # champions; MLflow bounds the length of a tag


@dataclass(frozen=True)
class ModelVersion:
    """One registered model.

    Args:
        version: Its number.
        aliases: Names that point to it, ``champion`` and ``previous`` among them.
        class_names: What it can name.
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
        """Accuracy on images that nobody trains on; none where it was not measured."""
        text = self.facts.get("test_accuracy", self.facts.get("validation_accuracy"))
        return None if text is None else float(text)


def objection(
    class_names: Sequence[str],
    accuracy: float | None,
    champion_class_names: Sequence[str],
    minimum_accuracy: float = 0.0,
) -> str | None:
    """Return why a candidate must not become champion; none if it may.

    Args:
        class_names: Of the candidate.
        accuracy: Of the candidate, on images that nobody trains on.
        champion_class_names: What the champion can name; empty if there is no champion.
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
        name: Of the registered model.

    Raises:
        RegistryError: If the store cannot be opened.
    """

    def __init__(self, tracking_uri: str, name: str) -> None:
        self.tracking_uri = check_uri(tracking_uri)
        self.name = name
        with _explained(f"opening the store {self.tracking_uri}"):
            self._client = open_store(self.tracking_uri)

    def register(
        self,
        model_folder: Path,
        run_id: str,
        tags: Mapping[str, str],
        input_example: NDArray[np.uint8] | None = None,
    ) -> int:
        """Store a model as a new version, or find it if this run stored it before.

        Args:
            model_folder: What ``save_model`` wrote; it is checked first.
            run_id: The MLflow run it comes from.
            tags: Further facts of the version, beside those of the manifest.
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
        with _explained(f"registering {model_folder}"):
            self._make_registered_model()
            model_id, place = upload_model(self._client, model_folder, run_id, input_example)
            facts = {**_as_tags(manifest), **tags}
            made = self._client.create_model_version(
                self.name, place, run_id=run_id, tags=facts, model_id=model_id
            )
            return int(made.version)

    def list_versions(self) -> list[ModelVersion]:
        """Return all versions, oldest first."""
        with _explained(f"listing the versions of {self.name}"):
            found, token = [], None
            while True:
                page = self._client.search_model_versions(f"name = '{self.name}'", page_token=token)
                found += page
                if not (token := page.token):
                    break
            aliases = self._aliases() if found else {}
            return sorted((_read(each, aliases) for each in found), key=lambda each: each.version)

    def find(self, which: str | int) -> ModelVersion:
        """Return the version with a number or an alias.

        Raises:
            RegistryError: If there is none.
        """
        versions = self.list_versions()
        for version in versions:
            if str(which) == str(version.version) or str(which) in version.aliases:
                return version
        known = (
            ", ".join(
                str(each.version) + "".join(f" ({alias})" for alias in each.aliases)
                for each in versions
            )
            or "none yet"
        )
        raise RegistryError(
            f"model {self.name!r} has no version or alias {str(which)!r}; known: {known}; choose "
            "one of these, or another store or name"
        )

    def champion(self) -> ModelVersion | None:
        """Return the version that serves; none before the first was accepted."""
        return next((each for each in self.list_versions() if CHAMPION in each.aliases), None)

    def accept(self, version: int, minimum_accuracy: float = 0.0) -> str | None:
        """Make a version the champion if nothing speaks against it.

        It carries the decision as tag ``acceptance``.

        Decided once: to ask again neither changes the answer nor undoes what people did since.

        Returns:
            Why it was refused; none if it was accepted.
        """
        candidate, champion = self.find(version), self.champion()
        if decided := candidate.facts.get("acceptance"):
            return decided.removeprefix(_REFUSED) if decided.startswith(_REFUSED) else None
        known = champion.class_names if champion else ()
        reason = objection(candidate.class_names, candidate.accuracy, known, minimum_accuracy)
        if reason is None:
            self.promote(version)
        self.tag(version, "acceptance", "accepted" if reason is None else _REFUSED + reason)
        return reason

    def promote(self, version: int) -> None:
        """Make a version the champion, whatever the rule says.

        The champion before becomes ``previous``.
        """
        self.find(version)
        history = self._history()
        if history[-1:] != [version]:
            history.append(version)
        with _explained(f"promoting version {version}"):
            self._point(history)

    def rollback(self) -> ModelVersion:
        """Make the champion before the present one champion again.

        Returns:
            The new champion.

        Raises:
            RegistryError: If there was none before.
        """
        history = self._history()
        if len(history) < 2:
            now = f"version {history[0]}, which replaced none" if history else "none"
            raise RegistryError(
                f"model {self.name!r} cannot be rolled back: its champion is {now}; needed: an "
                "earlier champion; promote a version instead"
            )
        withdrawn = history.pop()
        with _explained(f"rolling back to version {history[-1]}"):
            self.tag(withdrawn, "acceptance", "rolled back")
            self._point(history)
        return self.find(history[-1])

    def tag(self, version: int, key: str, value: str) -> None:
        """Write one fact beside a version; an older one of the same key is replaced."""
        with _explained(f"tagging version {version}"):
            self._client.set_model_version_tag(self.name, str(version), key, value)

    def load(self, which: str | int = CHAMPION) -> tuple[IncrementalNetwork, dict[str, Any]]:
        """Return the network and the manifest of a version or alias; its digest is checked."""
        with tempfile.TemporaryDirectory() as folder:
            return load_model(self._download(self.find(which).version, folder))

    def fetch(self, version: int, folder: Path) -> Path:
        """Copy a version's model out of the store.

        Args:
            version: Its number.
            folder: The model's own folder; appears whole or not at all. One that is there and holds
                this very model stays as it is.

        Returns:
            ``folder``.

        Raises:
            ModelError: If what the store has is not what was saved.
            RegistryError: If there is no such version, or the store does not answer.
        """
        digest = self.find(version).facts.get("digest")
        if folder.exists() and _holds(folder, digest):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            place = self._download(version, temporary)
            if not _holds(place, digest):
                raise ModelError(
                    f"version {version} of {self.name!r} is not the model with the digest "
                    f"{digest}; register the model again"
                )
            put_in_place(place, folder)
        return folder

    def _download(self, version: int, folder: str) -> Path:
        with _explained(f"fetching version {version}"):
            from mlflow.artifacts import download_artifacts
            from mlflow.models import Model

            source = self._client.get_model_version_download_uri(self.name, str(version))
            place = Path(
                download_artifacts(source, dst_path=folder, tracking_uri=self.tracking_uri)
            )
            return place / str(
                Model.load(str(place)).flavors["python_function"]["artifacts"]["model"]["path"]
            )

    def _make_registered_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _aliases(self) -> dict[str, int]:
        return {
            alias: int(version)
            for alias, version in self._client.get_registered_model(self.name).aliases.items()
        }

    def _history(self) -> list[int]:
        """Return the champions in the order of their reigns.

        What somebody changed by hand in MLflow is respected.
        """
        existing = {each.version for each in self.list_versions()}
        if not existing:
            return []
        with _explained(f"reading the history of {self.name}"):
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

    def _point(self, history: Sequence[int]) -> None:
        """Save the history, then let the aliases follow.

        If this stops half-way, doing it again sets all right.
        """
        self._client.set_registered_model_tag(
            self.name, "history", json.dumps(list(history[-_REMEMBERED:]))
        )
        self._client.set_registered_model_alias(self.name, CHAMPION, str(history[-1]))
        if len(history) > 1:
            self._client.set_registered_model_alias(self.name, PREVIOUS, str(history[-2]))
        elif PREVIOUS in self._aliases():
            self._client.delete_registered_model_alias(self.name, PREVIOUS)


def _holds(folder: Path, digest: str | None) -> bool:
    """Return whether a folder holds the model of a digest, unchanged."""
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


def _read(version: Any, aliases: Mapping[str, int]) -> ModelVersion:
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
def _explained(what: str) -> Iterator[None]:
    """Turn whatever MLflow, requests or SQLAlchemy raise into the house's error."""
    try:
        yield
    except (RegistryError, ModelError):
        raise
    except Exception as error:
        raise RegistryError(
            f"{what} failed: {type(error).__name__}: {error}; needed: an MLflow store that "
            "answers; check the address and try again"
        ) from error
