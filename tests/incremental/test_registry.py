from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from incremental.model_file import ModelError, load_model
from incremental.model_store import open_store
from incremental.registry import ModelRegistry, RegistryError, refusal_reason

ORGANS = ("liver", "spleen", "heart", "bladder")


@pytest.mark.parametrize(
    ("names", "accuracy", "champion", "least", "expected"),
    [
        (ORGANS, 0.5, (), 0.0, None),
        (ORGANS, 0.5, ORGANS[:2], 0.5, None),
        (ORGANS[::-1], 0.5, ORGANS, 0.0, None),
        (
            ORGANS[:2],
            0.9,
            ORGANS,
            0.0,
            "does not know 2 of the champion's 4 classes: heart, bladder",
        ),
        (ORGANS, 0.4, (), 0.5, "has an accuracy of 0.4000; the least allowed is 0.5000"),
        (ORGANS, float("nan"), (), 0.0, "has an accuracy of nan"),
        (ORGANS, None, (), 0.0, "has no measured accuracy"),
    ],
)
def test_champion_must_know_all_its_predecessor_knew_and_be_good_enough(
    names: tuple[str, ...],
    accuracy: float | None,
    champion: tuple[str, ...],
    least: float,
    expected: str | None,
) -> None:
    assert refusal_reason(names, accuracy, champion, least) == expected


def test_version_carries_the_facts_of_its_manifest(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    folder = model(ORGANS[:2])
    number = registry.register(folder, run_id, {"task": "0"})
    (version,) = registry.list_versions()
    assert (version.version, version.class_names, version.run_id, version.accuracy) == (
        number,
        ORGANS[:2],
        run_id,
        0.9,
    )
    assert version.facts["digest"] == load_model(folder)[1]["digest"]
    assert [
        version.facts[name]
        for name in ("round", "score", "dataset", "dataset_digest", "code_version", "task")
    ] == [*("5", "0.8", "made", "md5:1", "abc", "0")]
    assert version.aliases == ()


def test_registering_twice_gives_one_version(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    folder = model(ORGANS[:2])
    assert registry.register(folder, run_id, {}) == registry.register(folder, run_id, {})
    assert len(registry.list_versions()) == 1


def test_latest_accepted_version_is_champion_and_refused_one_says_why(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    for folder in (model(ORGANS[:2]), model(ORGANS), model(ORGANS[:3])):
        registry.accept(registry.register(folder, run_id, {}))
    first, second, third = registry.list_versions()
    assert (first.aliases, second.aliases, third.aliases) == (("previous",), ("champion",), ())
    assert first.facts["acceptance"] == second.facts["acceptance"] == "accepted"
    assert (
        third.facts["acceptance"] == "refused: does not know 1 of the champion's 4 classes: bladder"
    )


def test_asking_again_for_acceptance_does_not_undo_a_rollback(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    for count in (1, 2):
        registry.accept(registry.register(model(ORGANS[:count]), run_id, {}))
    registry.rollback()
    assert registry.accept(2) is None
    assert registry.find("champion").version == 1


def test_rollback_walks_back_through_all_champions_and_then_says_that_there_is_no_more(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    for count in (1, 2, 3):
        registry.accept(registry.register(model(ORGANS[:count]), run_id, {}))
    assert registry.rollback().version == 2
    assert registry.find("previous").version == 1
    assert registry.find(3).facts["acceptance"] == "rolled back"
    assert registry.rollback().aliases == ("champion",)
    assert [each.aliases for each in registry.list_versions()] == [("champion",), (), ()]
    with pytest.raises(
        RegistryError,
        match=r"its champion is version 1, which replaced none; needed: an earlier champion",
    ):
        registry.rollback()


def test_promotion_overrules_and_can_be_undone(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    for count in (4, 2):
        registry.accept(registry.register(model(ORGANS[:count]), run_id, {}))
    registry.promote(2)
    registry.promote(2)
    champion = registry.champion()
    assert champion is not None
    assert champion.version == 2
    assert registry.rollback().version == 1


def test_champion_that_was_set_by_hand_is_respected(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str, store: str
) -> None:
    for count in (1, 2, 3):
        registry.accept(registry.register(model(ORGANS[:count]), run_id, {}))
    open_store(store).set_registered_model_alias("organs", "champion", "1")
    assert registry.rollback().version == 3


def test_deleted_version_is_passed_over(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str, store: str
) -> None:
    for count in (1, 2, 3):
        registry.accept(registry.register(model(ORGANS[:count]), run_id, {}))
    open_store(store).delete_model_version("organs", "2")
    assert registry.rollback().version == 1


def test_registered_model_loads_with_the_saved_bits(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    folder = model(ORGANS)
    number = registry.register(folder, run_id, {})
    network, manifest = registry.load(number)
    expected, _ = load_model(folder)
    assert manifest["class_names"] == list(ORGANS)
    assert all(
        torch.equal(value, expected.state_dict()[name])
        for name, value in network.state_dict().items()
    )


def test_stored_weights_that_were_changed_are_refused(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str, tmp_path: Path
) -> None:
    registry.register(model(ORGANS), run_id, {})
    (stored,) = (tmp_path / "mlflow-artifacts").rglob("weights.safetensors")
    stored.write_bytes(stored.read_bytes()[:-8] + bytes(8))
    with pytest.raises(ModelError, match="was changed or cut short"):
        registry.load(1)


def test_version_is_fetched_once_and_again_where_it_was_damaged(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str, tmp_path: Path
) -> None:
    digest = load_model(model(ORGANS))[1]["digest"]
    registry.register(model(ORGANS), run_id, {})
    folder = registry.fetch(1, tmp_path / "here" / "version-1")
    assert load_model(folder)[1]["digest"] == digest
    inode = (folder / "weights.safetensors").stat().st_ino
    assert (registry.fetch(1, folder) / "weights.safetensors").stat().st_ino == inode
    (folder / "weights.safetensors").write_bytes(b"damaged")
    assert load_model(registry.fetch(1, folder))[1]["digest"] == digest
    assert [each.name for each in folder.parent.iterdir()] == ["version-1"]
    registry.tag(1, "digest", "sha256:another")
    with pytest.raises(ModelError, match="is not the model with the digest sha256:another"):
        registry.fetch(1, folder)


def test_damaged_folder_is_not_registered(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    folder = model(ORGANS)
    (folder / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ModelError):
        registry.register(folder, run_id, {})
    assert registry.list_versions() == []


def test_unknown_version_is_answered_with_the_known_ones(
    registry: ModelRegistry, model: Callable[..., Path], run_id: str
) -> None:
    with pytest.raises(RegistryError, match="known: none yet"):
        registry.find("champion")
    with pytest.raises(RegistryError, match="its champion is none"):
        registry.rollback()
    registry.accept(registry.register(model(ORGANS), run_id, {}))
    with pytest.raises(RegistryError, match=r"no version or alias '7'; known: 1 \(champion\)"):
        registry.promote(7)


def test_run_that_does_not_exist_is_a_registry_error(
    registry: ModelRegistry, model: Callable[..., Path]
) -> None:
    with pytest.raises(RegistryError, match=r"registering .* failed"):
        registry.register(model(ORGANS), "0" * 32, {})
