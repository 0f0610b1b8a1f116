from pathlib import Path

import pytest

from incremental.model_store import check_uri
from incremental.registry import ModelRegistry, RegistryError


@pytest.mark.parametrize(
    "uri",
    ["", "mlruns", "file:///tmp/x", "postgresql://host/db", "sqlite:///", "http://", "databricks"],
)
def test_address_of_another_kind_of_store_is_refused(uri: str) -> None:
    with pytest.raises(RegistryError, match="put an MLflow server in front"):
        check_uri(uri)


def test_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(RegistryError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        check_uri("https://doctor:secret@hospital.example")
    assert "secret" not in str(caught.value)


def test_unusable_file_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text(
        "this is no database, and long enough to be taken for one " * 20
    )
    for path in (tmp_path / "text.db", tmp_path / "text.db" / "mlflow.db"):
        with pytest.raises(RegistryError, match="cannot be used"):
            ModelRegistry(f"sqlite:///{path}", "organs")
