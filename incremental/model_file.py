"""Model files: a folder with ``weights.safetensors`` and ``manifest.json``.

The manifest holds the class names in the order of the head's rows, the architecture, the SHA-256
digest of the weights file and further facts (round, score, data set, ...). A folder appears whole
or not at all. Files that were changed afterwards are refused on loading.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from incremental.head import Weights, num_rows
from incremental.network import IncrementalNetwork, NetworkConfig, build_network

WEIGHTS_FILE = "weights.safetensors"
MANIFEST_FILE = "manifest.json"
Fact = str | float | int | None
_OWN_KEYS = ("class_names", "architecture", "digest")


class ModelError(ValueError):
    """A model, or images for a model, that cannot be used."""


def save_model(
    folder: Path,
    weights: Weights,
    network: NetworkConfig,
    class_names: Sequence[str],
    facts: Mapping[str, Fact],
) -> str:
    """Write a model; one in the same folder is replaced.

    Args:
        folder: The model's own folder.
        weights: State of an ``IncrementalNetwork``.
        network: Its architecture.
        class_names: One per row of the head, in its order.
        facts: Further entries of the manifest.

    Returns:
        The digest of the weights file, ``sha256:...``.

    Raises:
        ModelError: If names and head do not fit, a fact has a key of the manifest's own, or the
            disk refuses.
    """
    _check_class_names(class_names, num_rows(weights), str(folder))
    if taken := sorted(set(facts) & set(_OWN_KEYS)):
        raise ModelError(
            f"{folder}: facts hold {', '.join(taken)}; allowed: any other key; leave these to the "
            "manifest"
        )
    content = save({name: value.contiguous() for name, value in weights.items()})
    digest = _digest(content)
    manifest = {
        "class_names": list(class_names),
        "architecture": dataclasses.asdict(network),
        "digest": digest,
        **{key: _finite(value) for key, value in facts.items()},
    }
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        _write(temporary / WEIGHTS_FILE, content)
        _write(temporary / MANIFEST_FILE, json.dumps(manifest, indent=2).encode())
        replace_folder(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ModelError(
            f"the model {folder} could not be written: {error}; needed: {len(content)} bytes in a "
            "folder that can be written; make room and save again"
        ) from error
    return digest


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a model's manifest without reading its weights.

    Raises:
        ModelError: If there is none, or a required entry is missing.
    """
    path = folder / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}; expected: the JSON that save_model writes; give a "
            "model's folder"
        ) from error
    missing = [key for key in _OWN_KEYS if not isinstance(manifest, dict) or key not in manifest]
    if missing:
        raise ModelError(
            f"{path} lacks {', '.join(missing)}; expected: {', '.join(_OWN_KEYS)}; save the model "
            "again"
        )
    return dict(manifest)


def load_model(folder: Path) -> tuple[IncrementalNetwork, dict[str, Any]]:
    """Read a model and check that it was not changed since it was saved.

    Args:
        folder: Folder written by ``save_model``.

    Returns:
        The network in evaluation mode, and the manifest.

    Raises:
        ModelError: If a file is missing, cut short or changed, or if weights, architecture and
            class names do not fit together.
    """
    manifest = read_manifest(folder)
    path = folder / WEIGHTS_FILE
    try:
        content = path.read_bytes()  # read once, so that the bytes checked are those used
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error}; expected: the weights beside the manifest; save the "
            "model again"
        ) from error
    if (found := _digest(content)) != manifest["digest"]:
        raise ModelError(
            f"{path} has the digest {found}; allowed: {manifest['digest']}, as its manifest says; "
            "the file was changed or cut short, so take another copy of the model"
        )
    try:
        weights = load(content)
        network = build_network(NetworkConfig(**manifest["architecture"]), weights)
    except (SafetensorError, ValidationError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder}: weights and architecture do not fit together: {error}; expected: what "
            "save_model wrote; save the model again"
        ) from error
    _check_class_names(manifest["class_names"], num_rows(weights), str(folder))
    return network.eval(), manifest


def _check_class_names(class_names: Sequence[str], rows: int, where: str) -> None:
    if len(class_names) != rows or len(set(class_names)) != rows:
        raise ModelError(
            f"{where}: {len(class_names)} class names ({len(set(class_names))} different) for "
            f"{rows} rows of the head; allowed: one name per row, each once; name the classes in "
            "the order of the rows"
        )


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _finite(value: Fact) -> Fact:
    # JSON has no NaN.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_folder(new: Path, folder: Path) -> None:
    """Rename a new folder to ``folder``, after moving an old one away.

    An operating system cannot replace a folder in one step.
    """
    old = folder.with_name(f".{folder.name}.{uuid4().hex}")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
