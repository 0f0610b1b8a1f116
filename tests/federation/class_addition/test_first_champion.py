from pathlib import Path

import pytest

from federation.class_addition.first_champion import make_first_champion
from federation.class_addition.image_plan import (
    AdditionError,
)
from incremental.model_file import load_model
from tests.federation.class_addition.example_federation import CONFIG, ExampleFederation, run


@pytest.mark.slow
def test_first_champion_is_trained_and_released_and_a_second_call_changes_nothing(
    federation: ExampleFederation, first: Path, tmp_path: Path
) -> None:
    mirrors = {each: federation.root / each for each in ("north", "east", "south")}
    store = (f"sqlite:///{tmp_path / 'mlflow.db'}", "organs", tmp_path / "models")
    released, again = (
        make_first_champion(mirrors, tmp_path / "jobs", *store, config=CONFIG) for _ in range(2)
    )
    assert released == again
    assert released["current"]["version"] == "1"
    assert load_model(Path(released["current"]["folder"]))[1]["digest"] == run(first)["digest"]
    with pytest.raises(AdditionError, match="no first champion: nothing is approved"):
        make_first_champion(mirrors, tmp_path / "others", *store, class_names=["tumour"])
