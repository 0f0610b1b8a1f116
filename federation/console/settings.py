"""A console's settings: ``console.yaml`` in the console's folder, and where everything lies in that folder. Starts nothing.

The blocks ``triage``, ``addition``, ``release_rules`` and ``intake`` belong to the rooms of those names; they are passed on as they stand
to the process that knows them, so that no web process loads a model to read its settings.
"""

import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import pydantic.dataclasses
import yaml
from pydantic import ConfigDict, Field, TypeAdapter

SETTINGS_FILE, SECRET_FILE = "console.yaml", "session.key"
_HOSPITAL = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_SECRET_BYTES = 32
_PRIVATE_FILE, _PRIVATE_FOLDER = 0o600, 0o700


class SettingsError(ValueError):
    """Settings with which no console can be served: what, got, allowed, what to do."""


@dataclass(frozen=True)
class HospitalFolders:
    """Where one hospital's files lie; nobody else's process has to read them."""

    inbox: Path
    quarantine: Path
    archive: Path
    mirror: Path
    state: Path


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ReceiverSettings:
    """A hospital's DICOM door.

    Args:
        ae_title: Its application entity title; senders call it by it.
        allowed: Titles of the senders that may speak to it.
        address: Interface to listen on.
        port: Port.
    """

    ae_title: str
    allowed: tuple[str, ...]
    address: str = "127.0.0.1"
    port: int = 11112


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ConsoleSettings:
    """All that a console can be told.

    Args:
        folder: Of the console; holds everything that it keeps.
        hospitals: Their ids: small letters, digits, ``-`` and ``_``.
        federation_name: What the pages call the federation.
        database_url: Of cases, users and audit log; none: SQLite in the folder.
        tracking_uri: Of the MLflow store with the models; none: SQLite in the folder.
        model_name: Of the registered model.
        image_size: Side of a mirrored image [px].
        secure_cookies: Cookies travel over https alone; only a demo on this very machine may say no.
        trusted_hosts: Host names under which the console answers.
        idle_minutes: After so long without a request a session ends.
        max_upload_megabytes: Largest request body.
        max_upload_files: Most files of one upload.
        train_on_approval: Approved cases start a training by themselves; otherwise an operator or approver starts it.
        explain_seconds: Longest wait for the worker process with the model.
        triage: How unnamed images become cases.
        addition: How new classes are trained.
        release_rules: When a candidate may be released.
        intake: How images come in.
        receivers: Hospital -> its DICOM door; none: files only.
    """

    folder: Path
    hospitals: tuple[str, ...]
    federation_name: str = "Federation"
    database_url: str | None = None
    tracking_uri: str | None = None
    model_name: str = "fedka"
    image_size: int = 64
    secure_cookies: bool = True
    trusted_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    idle_minutes: int = 30
    max_upload_megabytes: int = 64
    max_upload_files: int = 500
    train_on_approval: bool = True
    explain_seconds: float = 120.0
    triage: Mapping[str, Any] = Field(default_factory=dict)
    addition: Mapping[str, Any] = Field(default_factory=dict)
    release_rules: Mapping[str, Any] = Field(default_factory=dict)
    intake: Mapping[str, Any] = Field(default_factory=dict)
    receivers: Mapping[str, ReceiverSettings] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what pydantic does not."""
        if not self.hospitals or len(set(self.hospitals)) != len(self.hospitals):
            raise ValueError(
                f"hospitals is {list(self.hospitals)}; allowed: one or more names, each once"
            )
        for hospital in self.hospitals:
            if not _HOSPITAL.fullmatch(hospital):
                raise ValueError(
                    f"a hospital is called {hospital!r}; allowed: small letters, digits, - and _, at most 40; it is also a folder's name"
                )
        strangers = sorted(set(self.receivers) - set(self.hospitals))
        if strangers:
            raise ValueError(
                f"receivers names {', '.join(strangers)}; allowed: {', '.join(self.hospitals)}"
            )
        for name in (
            "image_size",
            "idle_minutes",
            "max_upload_megabytes",
            "max_upload_files",
            "explain_seconds",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: more than 0")

    @property
    def review_url(self) -> str:
        """Address of the database of cases, users and audit log."""
        return self.database_url or f"sqlite:///{self.folder / 'console.sqlite'}"

    @property
    def audit_anchor(self) -> Path | None:
        """Where the audit log's anchor lies; none: beside the SQLite file."""
        return None if self.database_url is None else self.folder / "audit.anchor"

    @property
    def models_url(self) -> str:
        """Address of the store of models."""
        return self.tracking_uri or f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def jobs_folder(self) -> Path:
        """One folder per training, release and roll-back."""
        return self.folder / "jobs"

    @property
    def models_folder(self) -> Path:
        """Model folders, and ``current.json`` that names the one that serves."""
        return self.folder / "models"

    def hospital(self, hospital: str) -> HospitalFolders:
        """Return where a hospital's files lie."""
        place = self.folder / "hospitals" / hospital
        return HospitalFolders(
            *(place / name for name in ("inbox", "quarantine", "archive", "mirror", "state"))
        )


def load_settings(folder: Path) -> ConsoleSettings:
    """Read ``console.yaml`` of a console's folder.

    Raises:
        SettingsError: If there is none, or something in it is not allowed.
    """
    path = folder.absolute() / SETTINGS_FILE
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(
            f"{folder} holds no {SETTINGS_FILE}; make a console first with: fedka console init {folder}"
        ) from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(plain, dict) or "folder" in plain:
        raise SettingsError(
            f"{path} must be a mapping of settings without 'folder', which is where the file lies; got {plain!r:.200}"
        )
    try:
        return TypeAdapter(ConsoleSettings).validate_python({**plain, "folder": folder.absolute()})
    except pydantic.ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'settings'}: {each['msg']}"
            for each in error.errors()
        )
        raise SettingsError(f"{path}: {problems}") from error


def make_folder(settings: ConsoleSettings, plain: Mapping[str, Any]) -> None:
    """Make the folder of a new console: settings, key, and a place for every hospital.

    Args:
        settings: As they will be read back.
        plain: What ``console.yaml`` will say.

    Raises:
        SettingsError: If the folder is one of a console already.
    """
    if (settings.folder / SETTINGS_FILE).exists():
        raise SettingsError(
            f"{settings.folder} is a console's folder already; choose another one, or edit its {SETTINGS_FILE}"
        )
    private = [settings.folder, settings.jobs_folder, settings.models_folder]
    for hospital in settings.hospitals:
        folders = settings.hospital(hospital)
        private += [
            folders.inbox,
            folders.quarantine,
            folders.archive,
            folders.mirror,
            folders.state,
        ]
    for folder in private:
        folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    read_secret(settings)
    write_private(
        settings.folder / SETTINGS_FILE,
        yaml.safe_dump(dict(plain), sort_keys=False, allow_unicode=True).encode(),
    )


def read_secret(settings: ConsoleSettings) -> bytes:
    """Return the key of this console's signatures; made at the first call, readable by its owner alone.

    Raises:
        SettingsError: If others may read it, or it is too short.
    """
    path = settings.folder / SECRET_FILE
    if not path.exists():
        write_private(path, secrets.token_bytes(_SECRET_BYTES))
    secret = path.read_bytes()
    if len(secret) < _SECRET_BYTES or path.stat().st_mode & 0o077:
        raise SettingsError(
            f"{path} holds {len(secret)} bytes with mode {path.stat().st_mode & 0o777:o}; needed: {_SECRET_BYTES} with mode 600; remove it "
            "for a new one (everybody logs in again)"
        )
    return secret


def write_private(path: Path, content: bytes) -> None:
    """Write a file that its owner alone reads; whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(_PRIVATE_FILE)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
