from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from federation.console.settings import (
    ConsoleSettings,
    SettingsError,
    load_settings,
    make_folder,
    read_secret,
)


def make(folder: Path, **changes: Any) -> ConsoleSettings:
    plain = {"hospitals": ["north"], **changes}
    settings = TypeAdapter(ConsoleSettings).validate_python({**plain, "folder": folder})
    make_folder(settings, plain)
    return settings


def test_a_folder_that_was_made_is_read_back(tmp_path: Path) -> None:
    settings = make(
        tmp_path / "console", federation_name="Föderation <1>", triage={"quantile": 0.9}
    )
    assert load_settings(tmp_path / "console") == settings
    assert all(
        path.is_dir()
        for path in (settings.hospital("north").inbox, settings.jobs_folder, settings.models_folder)
    )


def test_folders_and_key_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    settings = make(tmp_path / "console")
    for path in (settings.folder, settings.hospital("north").inbox, settings.jobs_folder):
        assert path.stat().st_mode & 0o077 == 0
    assert (settings.folder / "session.key").stat().st_mode & 0o777 == 0o600


def test_the_secret_stays_and_must_not_be_readable_by_others(tmp_path: Path) -> None:
    settings = make(tmp_path / "console")
    secret = read_secret(settings)
    assert len(secret) == 32 and read_secret(settings) == secret
    (settings.folder / "session.key").chmod(0o644)
    with pytest.raises(SettingsError, match="mode 644"):
        read_secret(settings)


def test_a_console_is_not_made_over_another(tmp_path: Path) -> None:
    make(tmp_path / "console")
    with pytest.raises(SettingsError, match="already"):
        make(tmp_path / "console")


@pytest.mark.parametrize(
    "hospitals", [[], ["north", "north"], ["../north"], ["North"], ["a/b"], [""], ["x" * 41], ["."]]
)
def test_an_id_that_is_no_plain_folder_name_is_refused(hospitals: list[Any]) -> None:
    with pytest.raises(ValidationError, match="hospital"):
        ConsoleSettings(folder=Path("x"), hospitals=tuple(hospitals))


@pytest.mark.parametrize(
    "change",
    [
        {"idle_minute": 3},
        {"image_size": 0},
        {"receivers": {"south": {"ae_title": "A", "allowed": ["B"]}}},
    ],
)
def test_an_invalid_setting_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    make(tmp_path / "console")
    path = tmp_path / "console" / "console.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(SettingsError, match=next(iter(change))):
        load_settings(tmp_path / "console")


@pytest.mark.parametrize(
    "text", ["", "- a list", "hospitals: [north", "folder: elsewhere\nhospitals: [north]"]
)
def test_a_file_without_settings_gets_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "console.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"console\.yaml"):
        load_settings(tmp_path)


def test_a_missing_folder_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="fedka console init"):
        load_settings(tmp_path / "nothing")
