import json
from pathlib import Path

import torch
from pydantic import TypeAdapter

from federation.class_addition.training import AdditionConfig
from federation.methods.fedka import FedKA
from incremental.model_file import load_model
from physical.mirror import Mirror
from tests.federation.class_addition.example_federation import (
    CONFIG,
    KNOWN,
    NEW,
    SIDE,
    ExampleFederation,
    comparison,
    images,
    progress,
    run,
)
from twin.local_training import TrainingConfig


def test_first_model_learns_every_named_class_of_the_mirrors(first: Path) -> None:
    result = run(first)
    assert tuple(result["class_names"]) == tuple(result["grew"]) == KNOWN
    assert result["accuracy"] > 0.9
    found = comparison(first)
    assert found.champion is None
    assert all(each.is_new is False and each.champion_accuracy is None for each in found.classes)


def test_new_class_is_learned_and_old_ones_are_not_forgotten(second: Path, first: Path) -> None:
    result, found = run(second), comparison(second)
    assert result["class_names"] == [*KNOWN, NEW]
    assert result["grew"] == [NEW]
    by_name = {each.class_name: each for each in found.classes}
    assert by_name[NEW].is_new and (by_name[NEW].candidate_accuracy or 0) > 0.8
    assert all((by_name[name].loss_points or 0) <= 5 for name in KNOWN)
    assert found.champion is not None
    assert found.champion.digest == load_model(first / "candidate")[1]["digest"]
    assert load_model(second / "candidate")[1]["champion_digest"] == found.champion.digest
    assert result["light"] in ("green", "amber")


def test_progress_has_a_line_per_round_with_losses_accuracy_and_remaining_time(
    second: Path,
) -> None:
    rounds = [line for line in progress(second) if line["step"] == "round"]
    assert [(line["done"], line["of"]) for line in rounds] == [(1, 3), (2, 3), (3, 3)]
    assert {"classification", "semantic", "attention", "total"} <= set(rounds[0]["losses"])
    assert rounds[-1]["eta_seconds"] == 0
    assert rounds[0]["grew"] == [NEW]
    assert rounds[0]["by_group"].keys() == {"known", "new"}
    assert {line["step"] for line in progress(second)} == {"prepare", "round", "compare"}
    assert all(line["at"].endswith("+00:00") for line in progress(second))


def test_every_hospital_trains_and_none_on_held_out_images(second: Path) -> None:
    (last, *_) = [line for line in progress(second) if line["step"] == "round"]
    plan = json.loads((second / "plan.json").read_text())["hospitals"]
    for each in plan:
        train = [
            image_id
            for group in (each["known"], each["approved"])
            for ids in group.values()
            for image_id in ids
        ]
        held_out = [image_id for ids in each["held_out"].values() for image_id in ids]
        assert last["images_trained"][each["hospital_id"]] == len(train)
        assert not set(train) & set(held_out)
        assert all(each["held_out"].get(name) for name in KNOWN)


def test_head_grows_from_the_champions_head_bit_for_bit(
    federation: ExampleFederation, first: Path
) -> None:
    still = {
        **CONFIG,
        "rounds": 1,
        "training": {**CONFIG["training"], "learning_rate": 1e-30, "weight_decay": 0.0},
    }
    path = federation.job("still", first / "candidate", federation.approved(), config=still)
    assert run(path)["ok"]
    champion, candidate = (load_model(each / "candidate")[0] for each in (first, path))
    assert torch.equal(candidate.head.weight[: len(KNOWN)], champion.head.weight)
    assert torch.equal(candidate.head.bias[: len(KNOWN)], champion.head.bias)
    assert len(candidate.head.bias) == len(KNOWN) + 1


def test_images_of_a_known_class_are_trained_without_growing_the_head(
    federation: ExampleFederation, first: Path
) -> None:
    path = federation.job("merged", first / "candidate", federation.approved("heart"))
    result, found = run(path), comparison(path)
    assert (result["class_names"], result["grew"]) == (list(KNOWN), [])
    assert {line["done"]: line["grew"] for line in progress(path) if line["step"] == "round"} == {
        1: [],
        2: [],
        3: [],
    }
    assert {"semantic", "attention"} <= set(progress(path)[2]["losses"])
    assert (
        load_model(path / "candidate")[1]["digest"] != load_model(first / "candidate")[1]["digest"]
    )
    heart = next(each for each in found.classes if each.class_name == "heart")
    assert (heart.loss_points or 0) < -10


def test_damaged_champion_is_refused(
    federation: ExampleFederation, second: Path, tmp_path: Path
) -> None:
    champion = tmp_path / "champion"
    champion.mkdir()
    for name in ("manifest.json", "weights.safetensors"):
        content = (second / "candidate" / name).read_bytes()
        (champion / name).write_bytes(content[:-4] if name.startswith("weights") else content)
    path = federation.job("damaged", champion, federation.approved("liver"))
    assert "was changed or cut short" in run(path)["error"]
    assert not (path / "candidate").exists()


def test_training_without_a_usable_update_is_an_error(
    federation: ExampleFederation, first: Path
) -> None:
    wild = {
        **CONFIG,
        "rounds": 1,
        "training": {**CONFIG["training"], "learning_rate": 1e30, "gradient_clip": None},
    }
    path = federation.job("wild", first / "candidate", federation.approved(), config=wild)
    assert "no twin's update was usable in 1 rounds" in run(path)["error"]


def test_horizontal_flip_of_organs_with_a_side_is_refused(tmp_path: Path) -> None:
    federation = ExampleFederation(tmp_path)
    mirror = Mirror(tmp_path / "north", SIDE)
    mirror.add(images("north", "liver", 12))
    mirror.set_class_name([each.image_id for each in images("north", "liver", 12)], "lung-left")
    for hospital in ("east", "south"):
        Mirror(tmp_path / hospital, SIDE)
    flipped = {
        **CONFIG,
        "training": {**CONFIG["training"], "augmentation": {"horizontal_flip": True}},
    }
    assert (
        "horizontal_flip is true and lung-left has a side"
        in run(federation.job("flip", None, config=flipped))["error"]
    )


def test_settings_that_a_job_leaves_out_have_our_defaults() -> None:
    given = {"training": {"epochs": 5}, "method": {"semantic_weight": 3.0}}
    config = TypeAdapter(AdditionConfig).validate_python(given)
    assert isinstance(config.training, TrainingConfig) and isinstance(config.method, FedKA)
    training, method = config.training, config.method
    assert (training.epochs, training.learning_rate, training.momentum) == (5, 0.05, 0.9)
    assert (method.semantic_weight, method.head_loss, method.reconstruction) == (3.0, "ce", None)
