"""Settings of a console, read from ``console.yaml``, and the folders in which it keeps its data.

The blocks ``triage``, ``addition``, ``release_rules`` and ``intake`` are passed on unread to the
processes that use them, so that the web process need not import their code.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pydantic
import pydantic.dataclasses
import yaml
from pydantic import ConfigDict, Field, TypeAdapter

from federation.console.files import write_private

SETTINGS_FILE, SECRET_FILE = "console.yaml", "session.key"
_HOSPITAL = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_SECRET_BYTES = 32
_OWNER_ONLY = 0o700


class SettingsError(ValueError):
    """Settings are missing or not allowed."""


@dataclass(frozen=True)
class HospitalFolders:
    """Folders of one hospital's files; no process of another hospital reads them."""

    inbox: Path
    quarantine: Path
    archive: Path
    mirror: Path
    state: Path


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ReceiverSettings:
    """The DICOM receiver of a hospital.

    Args:
        ae_title: Its application entity title, by which senders call it.
        allowed: Application entity titles of the senders that may connect.
        address: Network interface to listen on.
        port: Port to listen on.
    """

    ae_title: str
    allowed: tuple[str, ...]
    address: str = "127.0.0.1"
    port: int = 11112


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ConsoleSettings:
    """All settings of a console.

    Args:
        folder: Folder of the console's data.
        hospitals: Ids of the hospitals: small letters, digits, ``-`` and ``_``.
        federation_name: Name of the federation on the pages.
        database_url: Database of cases, users and audit log; None: SQLite in the folder.
        tracking_uri: MLflow store of the models; None: SQLite in the folder.
        model_name: Name of the registered model.
        image_size: Side of a mirrored image [px].
        secure_cookies: Send cookies over https only; switch off only for a demo on one machine.
        trusted_hosts: Host names under which the console answers.
        idle_minutes: Minutes without a request after which a session ends.
        max_upload_megabytes: Largest request body.
        max_upload_files: Most files in one upload.
        train_on_approval: Start a training as soon as a case is approved.
        explain_seconds: Longest wait for the worker process with the model.
        triage: How images that look new are grouped into cases.
        addition: How new classes are trained.
        release_rules: When a candidate may be released.
        intake: How images are taken in.
        receivers: Hospital -> its DICOM receiver; a hospital without one takes files only.
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
        """Check hospitals, receivers and ranges."""
        if not self.hospitals or len(set(self.hospitals)) != len(self.hospitals):
            raise ValueError(
                f"hospitals is {list(self.hospitals)}; allowed: one or more names, each once"
            )
        for hospital in self.hospitals:
            if not _HOSPITAL.fullmatch(hospital):
                raise ValueError(
                    f"hospital id is {hospital!r}; allowed: small letters, digits, - and _, "
                    "at most 40, because it also names a folder"
                )
        unknown = sorted(set(self.receivers) - set(self.hospitals))
        if unknown:
            raise ValueError(
                f"receivers names {', '.join(unknown)}; allowed: {', '.join(self.hospitals)}"
            )
        uploads = ("max_upload_megabytes", "max_upload_files")
        for name in ("image_size", "idle_minutes", *uploads, "explain_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: more than 0")

    @property
    def review_url(self) -> str:
        """URL of the database of cases, users and audit log."""
        return self.database_url or f"sqlite:///{self.folder / 'console.sqlite'}"

    @property
    def audit_anchor(self) -> Path | None:
        """File of the audit log's anchor; None: beside the SQLite file."""
        return None if self.database_url is None else self.folder / "audit.anchor"

    @property
    def models_url(self) -> str:
        """URI of the MLflow store of the models."""
        return self.tracking_uri or f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def jobs_folder(self) -> Path:
        """Holds one folder per job."""
        return self.folder / "jobs"

    @property
    def models_folder(self) -> Path:
        """Holds the models and ``current.json``, which names the one that serves."""
        return self.folder / "models"

    def hospital(self, hospital: str) -> HospitalFolders:
        """Return the folders of a hospital."""
        parent = self.folder / "hospitals" / hospital
        names = ("inbox", "quarantine", "archive", "mirror", "state")
        return HospitalFolders(*(parent / name for name in names))


def load_settings(folder: Path) -> ConsoleSettings:
    """Read ``console.yaml`` in the folder of a console.

    Raises:
        SettingsError: If there is none, or something in it is not allowed.
    """
    path = folder.absolute() / SETTINGS_FILE
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(
            f"{folder} holds no {SETTINGS_FILE}; "
            f"make a console first with: fedka console init {folder}"
        ) from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(plain, dict) or "folder" in plain:
        raise SettingsError(
            f"{path} holds {plain!r:.200}; allowed: a mapping of settings without 'folder', "
            "which is always the folder of the file"
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
    """Make the folder of a new console with its settings, key and hospital folders.

    Args:
        settings: The settings, validated.
        plain: The same settings as they are written into ``console.yaml``.

    Raises:
        SettingsError: If the folder already belongs to a console.
    """
    if (settings.folder / SETTINGS_FILE).exists():
        raise SettingsError(
            f"{settings.folder} is a console's folder already; "
            f"choose another one, or edit its {SETTINGS_FILE}"
        )
    private = [settings.folder, settings.jobs_folder, settings.models_folder]
    for hospital in settings.hospitals:
        private += astuple(settings.hospital(hospital))
    for folder in private:
        folder.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
    read_secret(settings)
    write_private(
        settings.folder / SETTINGS_FILE,
        yaml.safe_dump(dict(plain), sort_keys=False, allow_unicode=True).encode(),
    )


def read_secret(settings: ConsoleSettings) -> bytes:
    """Return the key that signs cookies and form tokens; the first call makes it.

    Raises:
        SettingsError: If other users may read it, or it is too short.
    """
    path = settings.folder / SECRET_FILE
    if not path.exists():
        write_private(path, secrets.token_bytes(_SECRET_BYTES))
    secret = path.read_bytes()
    if len(secret) < _SECRET_BYTES or path.stat().st_mode & 0o077:
        raise SettingsError(
            f"{path} holds {len(secret)} bytes with mode {path.stat().st_mode & 0o777:o}; "
            f"needed: {_SECRET_BYTES} with mode 600; "
            "remove it for a new one (everybody logs in again)"
        )
    return secret
