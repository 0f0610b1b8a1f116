import json
import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from federation.class_addition.training import AdditionConfig
from federation.class_addition.first_champion import make_first_champion
from federation.class_addition.mirrored_hospitals import shrink
from federation.class_addition.image_plan import (
    AdditionError,
    AdditionHospital,
    ImageLimits,
    hold_out,
    make_plan,
)
from federation.class_addition.job import AdditionJob, run_addition
from federation.jobs.runner import JobFolder, run_job
from federation.methods.fedka import FedKA
from federation.release.findings import Comparison, read_comparison
from incremental.model_file import load_model
from incremental.network import IncrementalNetwork, NetworkConfig
from physical.mirror import Mirror, MirrorError, MirrorImage
from twin.local_training import TrainingConfig

KNOWN, NEW, SIDE = ("heart", "liver", "spleen"), "pancreas", 16
LIMITS = ImageLimits(
    images_per_class=100, held_out_fraction=0.25, held_out_per_class=100, held_out_by="image"
)
CONFIG: dict[str, Any] = {
    "rounds": 3,
    "network": {"backbone": "lenet", "width": 4, "image_size": SIDE},
    "training": {
        "epochs": 2,
        "batch_size": 8,
        "augmentation": {"crop_padding_pixels": 0, "brightness": 0.0},
    },
}


def picture(name: str, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Stripes that are lying or standing, narrow or wide: one kind for each class."""
    kind = (*KNOWN, NEW).index(name)
    stripes = np.where(np.arange(SIDE) % (4 if kind % 2 else 8) < (2 if kind % 2 else 4), 200, 40)
    clean = np.tile(stripes, (SIDE, 1))
    noise = np.random.default_rng([kind, number]).normal(0, 25, (SIDE, SIDE))
    return np.clip((clean.T if kind < 2 else clean) + noise, 0, 255).astype(np.uint8)


def images(
    hospital: str, name: str, count: int, named: bool = True, first: int = 0
) -> list[MirrorImage]:
    shift = {"north": 0, "east": 1000, "south": 2000}[hospital]
    return [
        MirrorImage(
            f"{hospital}-{name}-{number}",
            "2024-02-19T08:30:00+00:00",
            f"{hospital}-{number % 5}",
            "study",
            name if named else None,
            picture(name, shift + number),
            "png",
        )
        for number in range(first, first + count)
    ]


@dataclass
class Federation:
    """Three hospitals' mirrors; two of them have images that nobody named."""

    root: Path

    def fill(self) -> "Federation":
        for hospital, unnamed in (("north", 24), ("east", 16), ("south", 0)):
            mirror = Mirror(self.root / hospital, SIDE)
            for name in KNOWN:
                mirror.add(images(hospital, name, 24))
            mirror.add(images(hospital, NEW, unnamed, named=False))
            mirror.close()
        return self

    def job(
        self,
        folder: str,
        champion: Path | None,
        approved: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        **more: Any,
    ) -> Path:
        hospitals = [
            {
                "hospital_id": each,
                "mirror": str(self.root / each),
                "new_images": None if champion is None else (approved or {}).get(each, {}),
            }
            for each in ("north", "east", "south")
        ]
        path = self.root / folder
        path.mkdir()
        job = {
            "job_id": folder,
            "champion": champion and str(champion),
            "hospitals": hospitals,
            "config": CONFIG,
            **more,
        }
        (path / "job.json").write_text(json.dumps(job))
        return path

    def approved(self, name: str = NEW) -> dict[str, dict[str, list[str]]]:
        return {
            hospital: {name: [each.image_id for each in images(hospital, NEW, count)]}
            for hospital, count in (("north", 24), ("east", 16))
        }


def run(path: Path) -> dict[str, Any]:
    code = run_job(path / "job.json", AdditionJob, run_addition)
    result: dict[str, Any] = json.loads((path / "result.json").read_text())
    assert (code == 0) is result["ok"]
    return result


def progress(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "progress.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(tmp_path_factory.mktemp("federation")).fill()


@pytest.fixture(scope="module")
def first(federation: Federation) -> Path:
    path = federation.job("first", None)
    assert run(path)["ok"]
    return path


@pytest.fixture(scope="module")
def second(federation: Federation, first: Path) -> Path:
    path = federation.job("second", first / "candidate", federation.approved())
    assert run(path)["ok"]
    return path


def comparison(path: Path) -> Comparison:
    return read_comparison(path / "comparison.json")[0]


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


def test_progress_has_a_line_per_round_with_losses_accuracy_and_the_time_that_is_left(
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


def test_every_hospital_trains_and_nobody_trains_on_what_is_held_out(second: Path) -> None:
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


def test_what_was_held_out_from_the_champion_is_held_out_from_the_candidate(
    first: Path, second: Path
) -> None:
    before, after = (
        json.loads((path / "plan.json").read_text())["hospitals"] for path in (first, second)
    )
    for one, other in zip(before, after, strict=True):
        assert all(one["held_out"][name] == other["held_out"][name] for name in KNOWN)


def test_head_grows_from_the_champions_head_bit_for_bit(
    federation: Federation, first: Path
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


class MortalFolder(JobFolder):
    """Its process is killed as soon as the second round is told."""

    def add_progress(
        self, step: str, done: int, of: int, text: str, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().add_progress(step, done, of, text, facts)
        if (step, done) == ("round", 2):
            os.kill(os.getpid(), signal.SIGKILL)


def run_to_death(path: Path) -> None:
    from pydantic import TypeAdapter

    folder = MortalFolder(path)
    with folder.lock():
        run_addition(TypeAdapter(AdditionJob).validate_json((path / "job.json").read_bytes()), folder)


def test_killed_process_that_starts_again_makes_the_same_candidate_though_images_arrived(
    tmp_path: Path, first: Path, second: Path
) -> None:
    federation = Federation(tmp_path).fill()
    path = federation.job("second", first / "candidate", federation.approved())
    process = multiprocessing.get_context("spawn").Process(target=run_to_death, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(progress(path)) == 4
    Mirror.at(tmp_path / "north").add(images("north", "liver", 30, first=500))
    assert run(path)["digest"] == run(second)["digest"]
    assert [line["done"] for line in progress(path) if line["step"] == "round"] == [1, 2, 3]


def test_job_that_ended_well_is_not_run_again(second: Path) -> None:
    before = (second / "result.json").stat().st_mtime_ns, (second / "progress.jsonl").read_bytes()
    run(second)
    assert (
        (second / "result.json").stat().st_mtime_ns,
        (second / "progress.jsonl").read_bytes(),
    ) == before


def test_images_of_a_known_class_are_trained_without_growth(
    federation: Federation, first: Path
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


def test_names_of_a_mirror_are_read_as_the_catalogue_resolves_them(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "mirror", SIDE)
    mirror.add(images("north", "liver", 12))
    mirror.name([each.image_id for each in images("north", "liver", 6)], "Leber")
    hospitals = [AdditionHospital("north", tmp_path / "mirror", None)]
    assert make_plan(hospitals, [], LIMITS, {"Leber": "liver"}).approved_names() == ("liver",)
    assert make_plan(hospitals, [], LIMITS, {}).approved_names() == ("Leber", "liver")
    assert make_plan(hospitals, [], LIMITS, {}, ["liver"]).approved_names() == ("liver",)


def test_images_of_one_patient_go_the_same_way_where_that_is_asked(federation: Federation) -> None:
    limits = ImageLimits(100, 0.25, 100, "patient")
    plan = make_plan([AdditionHospital("south", federation.root / "south", None)], [], limits, {})
    (south,) = plan.hospitals
    for name in KNOWN:
        sides = [
            {int(image_id.rsplit("-", 1)[1]) % 5 for image_id in group[name]}
            for group in (south.approved, south.held_out)
        ]
        assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_number_of_images_is_bounded_and_the_choice_stays(federation: Federation) -> None:
    hospitals = [AdditionHospital("south", federation.root / "south", None)]
    all_of_them, few = (
        make_plan(hospitals, [], ImageLimits(most, 0.25, 3, "image"), {}).hospitals[0]
        for most in (100, 5)
    )
    for name in KNOWN:
        assert len(few.approved[name]) == 5 and len(few.held_out[name]) <= 3
        assert set(few.approved[name]) <= set(all_of_them.approved[name])
        assert few.held_out[name] == all_of_them.held_out[name]


@pytest.mark.parametrize(
    ("new_images", "message"),
    [
        ({}, "nothing is approved in north"),
        ({NEW: []}, "nothing is approved"),
        ({NEW: ["north-pancreas-0"]}, "'pancreas' has 1 images; needed: two in one hospital"),
        (
            {NEW: ["north-pancreas-0", "north-pancreas-1"], "tumour": ["north-pancreas-1"]},
            "approved as 'pancreas' and as 'tumour'",
        ),
        ({NEW: ["north-pancreas-0", "nobody"]}, "nobody"),
        ({"Liver": ["north-pancreas-0", "north-pancreas-1"]}, "'Liver' is 'liver' to the champion"),
    ],
)
def test_approval_that_cannot_be_trained_is_refused(
    federation: Federation, new_images: dict[str, list[str]], message: str
) -> None:
    with pytest.raises((AdditionError, MirrorError), match=message):
        make_plan(
            [AdditionHospital("north", federation.root / "north", new_images)], KNOWN, LIMITS, {}
        )


def test_image_that_moved_from_a_known_class_to_a_new_one_is_counted_once(
    federation: Federation,
) -> None:
    moved = [f"north-liver-{number}" for number in range(10)]
    (north,) = make_plan(
        [AdditionHospital("north", federation.root / "north", {NEW: moved})], KNOWN, LIMITS, {}
    ).hospitals
    assert not set(moved) & set(north.known["liver"])
    assert set(north.approved[NEW]) | set(north.held_out[NEW]) == set(moved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rouns": 3}, "rouns: "),
        ({"config": {**CONFIG, "training": {"epoch": 3}}}, "epoch"),
        ({"config": {**CONFIG, "held_out_fraction": 0.0}}, "without it nothing can be measured"),
        ({"champion": "models/version-1"}, "allowed: absolute paths"),
        ({"champion": "/nowhere"}, "/nowhere/manifest.json cannot be read"),
        ({"hospitals": []}, "hospitals: "),
        (
            {"hospitals": [{"hospital_id": "../north", "mirror": "/m", "new_images": {}}]},
            "hospitals.0.hospital_id",
        ),
        (
            {"hospitals": [{"hospital_id": "north", "mirror": "/m", "new_images": {"<b>": []}}]},
            "class name '<b>' is not allowed",
        ),
        ({"hospitals": [{"hospital_id": "north", "mirror": "/m"}] * 2}, "allowed: each once"),
        (
            {"hospitals": [{"hospital_id": "north", "mirror": "/m"}]},
            "new_images is missing although there is a champion",
        ),
        ({"rules": {"min_accuracy": 2}}, "min_accuracy is 2"),
    ],
)
def test_job_that_cannot_be_run_says_why_in_its_result(
    federation: Federation, first: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    job = json.loads((first / "job.json").read_text())
    job |= {
        "champion": str(first / "candidate"),
        "hospitals": [{**each, "new_images": {}} for each in job["hospitals"]],
    }
    (tmp_path / "job.json").write_text(json.dumps({**job, **change}))
    result = run(tmp_path)
    assert result["ok"] is False
    assert message in result["error"]
    assert "\n" not in result["error"]


def test_damaged_champion_is_refused(federation: Federation, second: Path, tmp_path: Path) -> None:
    champion = tmp_path / "champion"
    champion.mkdir()
    for name in ("manifest.json", "weights.safetensors"):
        content = (second / "candidate" / name).read_bytes()
        (champion / name).write_bytes(content[:-4] if name.startswith("weights") else content)
    path = federation.job("damaged", champion, federation.approved("liver"))
    assert "was changed or cut short" in run(path)["error"]
    assert not (path / "candidate").exists()


def test_training_that_comes_to_nothing_is_an_error(federation: Federation, first: Path) -> None:
    wild = {
        **CONFIG,
        "rounds": 1,
        "training": {**CONFIG["training"], "learning_rate": 1e30, "gradient_clip": None},
    }
    path = federation.job("wild", first / "candidate", federation.approved(), config=wild)
    assert "no twin's update was usable in 1 rounds" in run(path)["error"]


def test_mirrored_images_of_sided_organs_are_refused(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    mirror = Mirror(tmp_path / "north", SIDE)
    mirror.add(images("north", "liver", 12))
    mirror.name([each.image_id for each in images("north", "liver", 12)], "lung-left")
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


def test_part_of_the_settings_keeps_the_rest() -> None:
    config = AdditionConfig(training={"epochs": 5}, method={"semantic_weight": 3.0})  # type: ignore[arg-type]
    assert isinstance(config.training, TrainingConfig) and isinstance(config.method, FedKA)
    assert (config.training.epochs, config.training.learning_rate, config.training.momentum) == (
        5,
        0.05,
        0.9,
    )
    assert (
        config.method.semantic_weight,
        config.method.head_loss,
        config.method.reconstruction,
    ) == (3.0, "ce", None)


def test_large_images_are_shrunk_as_the_network_would_shrink_them() -> None:
    network = IncrementalNetwork(
        NetworkConfig(backbone="lenet", width=4, image_size=28, channels=1), rows=1
    )
    large = np.random.default_rng(1).integers(0, 256, (3, 64, 64)).astype(np.uint8)
    direct = network.normalise(torch.from_numpy(large)[:, None].float() / 255)
    small = network.normalise(torch.from_numpy(shrink(large, 28))[:, None].float() / 255)
    assert (
        float((direct - small).abs().max()) <= 2 * 0.5 / 255 + 1e-6
    )  # half a grey level, and the network divides by 0.5
    assert shrink(large, 64) is large


@given(st.lists(st.floats(0, 1, exclude_max=True), max_size=30), st.floats(0.01, 0.5))
def test_some_are_held_out_but_never_all(numbers: list[float], fraction: float) -> None:
    order = np.array(numbers)
    kept_out = hold_out(order, fraction)
    different = len(set(numbers))
    assert kept_out.any() == (different >= 2)
    assert not kept_out.all() or not numbers
    assert all(len(set(kept_out[order == number])) == 1 for number in numbers)


@given(
    st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=30, unique=True),
    st.floats(0, 1, exclude_max=True),
)
def test_arrival_never_moves_an_image_from_training_to_the_held_out_ones_but_the_last(
    numbers: list[float], arrived: float
) -> None:
    before = hold_out(np.array(numbers), 0.25)
    after = hold_out(np.array([*numbers, arrived]), 0.25)[:-1]
    moved = [
        number for number, was, now in zip(numbers, before, after, strict=True) if now and not was
    ]
    assert moved in ([], [max(numbers)])


@pytest.mark.slow
def test_first_champion_is_trained_and_serves_and_a_second_call_changes_nothing(
    federation: Federation, first: Path, tmp_path: Path
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
