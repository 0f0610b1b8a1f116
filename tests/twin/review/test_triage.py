import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
from numpy.typing import NDArray

from physical.mirror import Mirror, MirrorImage
from twin.review.novelty_scores import Looks, ModelFacts
from twin.review.seen_images import alone
from twin.review.store import ReviewStore
from twin.review.triage import TriageConfig, TriageError, triage
from twin.review.workflow import Actor, CaseState

SIDE = 8
KNOWN = {"heart": (1, 0, 0, 0), "liver": (0, 1, 0, 0), "spleen": (0, 0, 1, 0)}
NEW = {"pancreas": (0, 0, 0, 1), "bladder": (1, 1, 0, 0), "kidney": (0, 1, 1, 0)}


class Eye:
    """A model that one can calculate.

    Features are the brightness of the four quarters, logits twelve times the first ones.
    """

    def __init__(
        self, class_names: tuple[str, ...] = tuple(KNOWN), digest: str = "sha256:one"
    ) -> None:
        self.facts = ModelFacts("nowhere", digest, class_names)
        self.seen: list[Any] = []

    def look(self, images: NDArray[Any]) -> Looks:
        self.seen.append(len(images))
        halves = (
            images.astype(np.float32).reshape(len(images), 2, SIDE // 2, 2, SIDE // 2).mean((2, 4))
            / 255
        )
        features = halves.reshape(len(images), 4)
        return Looks(features, 12 * features[:, : len(self.facts.class_names)], self.facts.digest)


def pictures(
    prefix: str, shape: tuple[int, ...], count: int, *, named: bool = False, seed: int = 0
) -> list[Any]:
    rng = np.random.default_rng([seed, *prefix.encode()])
    found = []
    for index in range(count):
        quarters = np.clip(np.array(shape).reshape(2, 2) * 150 + rng.normal(40, 12, (2, 2)), 0, 255)
        pixels = np.kron(quarters, np.ones((SIDE // 2, SIDE // 2))).astype(np.uint8)
        name = f"{prefix}-{index:04d}"
        arrived = f"2031-05-01T00:{index // 60 % 60:02d}:{index % 60:02d}+00:00"
        found.append(
            MirrorImage(
                name,
                arrived,
                f"p{index // 5}",
                f"s{index // 5}",
                prefix if named else None,
                pixels,
                "png",
            )
        )
    return found


def hospital(folder: Path, history: int = 60) -> Mirror:
    mirror = Mirror(folder, SIDE)
    for name, shape in KNOWN.items():
        mirror.add(pictures(name, shape, history, named=True))
        mirror.add(pictures(f"{name}-unnamed", shape, 30))
    return mirror


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    mirror = hospital(tmp_path / "mirror")
    yield mirror
    mirror.close()


def image_ids(store: ReviewStore, case_id: int) -> set[str]:
    return {image.image_id for image in store.images(case_id, 1, 2000).items}


@pytest.mark.parametrize("score", ["entropy", "max_softmax", "energy", "distance"])
def test_an_unknown_organ_becomes_one_case_and_known_ones_none(
    mirror: Mirror, store: ReviewStore, score: Any
) -> None:
    organ = pictures("pancreas", NEW["pancreas"], 40)
    mirror.add(organ)
    report = triage(mirror, Eye(), store, "north", TriageConfig(score=score))
    assert len(report.opened) == 1
    assert image_ids(store, report.opened[0]) >= {each.image_id for each in organ}
    assert len(image_ids(store, report.opened[0])) < 50
    assert (report.num_judged, report.num_history) == (130, 180)
    assert 40 <= report.num_new <= 40 + 0.15 * 90
    assert report.undecided is None


def test_a_case_says_what_the_detector_found(mirror: Mirror, store: ReviewStore) -> None:
    mirror.add(pictures("bladder", NEW["bladder"], 25))
    report = triage(mirror, Eye(), store, "north", model_version="7")
    case = store.case("north", report.opened[0])
    summary = case.summary
    assert case.state == CaseState.DETECTED
    assert summary.num_images == case.num_images == sum(summary.entropy_histogram) >= 25
    assert sum(summary.usual_histogram) == 180
    assert summary.mean_entropy > summary.threshold == report.threshold
    assert [name for name, _ in summary.nearest[:2]] in (["heart", "liver"], ["liver", "heart"])
    assert (summary.score_name, summary.model_version) == ("entropy", "7")
    for name, exemplars in summary.nearest_exemplars.items():
        facts = mirror.facts(exemplars)
        assert {each.class_name for each in facts} == {name}
        assert len({each.patient for each in facts}) == len(exemplars) == 6
    assert set(summary.representative) <= image_ids(store, case.case_id)
    for image in store.images(case.case_id).items:
        assert image.entropy > summary.threshold
        assert [round(value, 3) for _, value in image.top] == sorted(
            (round(value, 3) for _, value in image.top), reverse=True
        )
        assert image.arrived == mirror.facts([image.image_id])[0].arrived
        assert 0 <= image.distance <= 2


def test_each_unknown_organ_has_its_own_case(mirror: Mirror, store: ReviewStore) -> None:
    for name, shape in NEW.items():
        mirror.add(pictures(name, shape, 30))
    report = triage(mirror, Eye(), store, "north")
    assert len(report.opened) == 3
    for case_id in report.opened:
        kinds = [image_id.rsplit("-", 1)[0] for image_id in image_ids(store, case_id)]
        assert max(kinds.count(name) for name in NEW) >= 0.85 * len(kinds)


def test_a_second_call_looks_at_nothing_and_changes_nothing(
    mirror: Mirror, store: ReviewStore
) -> None:
    mirror.add(pictures("pancreas", NEW["pancreas"], 20))
    first, eye = triage(mirror, Eye(), store, "north"), Eye()
    before = store.case("north", first.opened[0])
    second = triage(mirror, eye, store, "north")
    assert eye.seen == []
    assert (second.num_judged, second.opened, second.grown) == (0, (), ())
    assert second.num_waiting == first.num_waiting
    assert store.case("north", first.opened[0]) == before


def test_later_images_of_the_organ_join_the_case(mirror: Mirror, store: ReviewStore) -> None:
    mirror.add(pictures("pancreas", NEW["pancreas"], 20))
    first = triage(mirror, Eye(), store, "north")
    size = store.case("north", first.opened[0]).num_images
    mirror.add(pictures("pancreas-later", NEW["pancreas"], 3))
    eye = Eye()
    second = triage(mirror, eye, store, "north")
    case = store.case("north", first.opened[0])
    assert (second.opened, second.grown) == ((), first.opened)
    assert sum(eye.seen) == 3
    assert case.num_images == case.summary.num_images == sum(case.summary.entropy_histogram)
    assert size + 3 <= case.num_images <= size + 3 + first.num_waiting


def test_few_images_wait_for_others_like_them(mirror: Mirror, store: ReviewStore) -> None:
    mirror.add(pictures("pancreas", NEW["pancreas"], 4))
    first = triage(mirror, Eye(), store, "north")
    assert first.opened == ()
    assert first.num_waiting >= 4
    mirror.add(pictures("pancreas-later", NEW["pancreas"], 4))
    second = triage(mirror, Eye(), store, "north")
    assert len(second.opened) == 1
    assert (
        sum(image_id.startswith("pancreas") for image_id in image_ids(store, second.opened[0])) == 8
    )


def test_an_image_that_was_named_waits_no_longer(mirror: Mirror, store: ReviewStore) -> None:
    mirror.add(pictures("pancreas", NEW["pancreas"], 4))
    before = triage(mirror, Eye(), store, "north").num_waiting
    mirror.set_class_name([f"pancreas-{index:04d}" for index in range(4)], "pancreas")
    assert triage(mirror, Eye(), store, "north").num_waiting == before - 4
    mirror.set_class_name(["pancreas-0000"], None)
    assert triage(mirror, Eye(), store, "north").num_waiting == before - 3


def test_a_name_that_is_taken_back_makes_an_image_be_judged(
    mirror: Mirror, store: ReviewStore
) -> None:
    mirror.add(pictures("pancreas", NEW["pancreas"], 8))
    ids = [f"pancreas-{index:04d}" for index in range(8)]
    mirror.set_class_name(ids, "liver")  # wrong: it is compared with others as a liver
    assert triage(mirror, Eye(), store, "north").opened == ()
    mirror.set_class_name(ids, None)
    assert len(triage(mirror, Eye(), store, "north").opened) == 1


def test_a_new_model_judges_again_and_so_does_the_old_one_after_a_roll_back(
    mirror: Mirror, store: ReviewStore
) -> None:
    mirror.add(pictures("pancreas", NEW["pancreas"], 5))
    first = triage(mirror, Eye(), store, "north")
    mirror.add(pictures("named-pancreas", NEW["pancreas"], 40))
    mirror.set_class_name([f"named-pancreas-{index:04d}" for index in range(40)], "pancreas")
    champion = Eye((*KNOWN, "pancreas"), "sha256:two")
    second = triage(mirror, champion, store, "north")
    assert second.num_judged == first.num_judged == 95
    assert sum(champion.seen) == 95 + 220
    assert second.num_waiting <= first.num_waiting - 4
    old = Eye()
    assert triage(mirror, old, store, "north").num_waiting == first.num_waiting
    assert sum(old.seen) == 95 + 180


def test_other_rules_judge_again(mirror: Mirror, store: ReviewStore) -> None:
    triage(mirror, Eye(), store, "north")
    assert triage(mirror, Eye(), store, "north", TriageConfig(quantile=0.9)).num_judged == 90


@pytest.mark.parametrize("history", [0, 5])
def test_a_hospital_without_a_history_decides_nothing(
    tmp_path: Path, store: ReviewStore, history: int
) -> None:
    mirror, eye = hospital(tmp_path / "young", history), Eye()
    mirror.add(pictures("pancreas", NEW["pancreas"], 40))
    report = triage(mirror, eye, store, "north")
    assert report.undecided is not None
    assert f"the history has {3 * history} named images" in report.undecided
    assert eye.seen == []
    assert store.cases("north").total == 0
    mirror.close()


def test_images_named_as_what_the_model_does_not_know_are_no_history(
    mirror: Mirror, store: ReviewStore
) -> None:
    mirror.add(pictures("pancreas", NEW["pancreas"], 40, named=True))
    report = triage(mirror, Eye(), store, "north")
    assert report.num_history == 180
    assert report.num_judged == 90


@pytest.mark.parametrize(
    ("acts", "back"),
    [
        (
            [("open", "anna", {}), ("name", "anna", {"class_name": "pancreas"})],
            ("send_back", "carl"),
        ),
        ([("reject", "anna", {"reason": "noise"})], ("reopen", "anna")),
    ],
    ids=["named", "rejected"],
)
def test_images_like_a_decided_case_wait_until_it_is_taken_up_again(
    mirror: Mirror,
    store: ReviewStore,
    people: dict[str, Actor],
    acts: list[tuple[Any, ...]],
    back: tuple[str, ...],
) -> None:
    mirror.add(pictures("pancreas", NEW["pancreas"], 20))
    (case_id,) = triage(mirror, Eye(), store, "north").opened
    for action, user, facts in acts:
        store.act(case_id, action, people[user], hospital="north", **facts)
    mirror.add(pictures("pancreas-later", NEW["pancreas"], 12))
    for _ in range(2):
        report = triage(mirror, Eye(), store, "north")
        assert (report.opened, report.grown) == ((), ())
        assert report.num_decided >= 12
    action, user = back
    store.act(case_id, action, people[user], hospital="north", reason="look again")
    report = triage(mirror, Eye(), store, "north")
    assert report.grown == (case_id,)
    assert report.num_decided == 0
    assert (
        sum(image_id.startswith("pancreas-later") for image_id in image_ids(store, case_id)) == 12
    )


def test_images_that_were_taken_out_of_a_case_do_not_draw_others_into_it(
    mirror: Mirror, store: ReviewStore, people: dict[str, Actor]
) -> None:
    mirror.add(pictures("pancreas", NEW["pancreas"], 20))
    (case_id,) = triage(mirror, Eye(), store, "north").opened
    store.act(case_id, "open", people["anna"], hospital="north")
    store.select(
        case_id, sorted(image_ids(store, case_id)), False, people["anna"], hospital="north"
    )
    mirror.add(pictures("pancreas-later", NEW["pancreas"], 12))
    report = triage(mirror, Eye(), store, "north")
    assert report.grown == ()
    assert len(report.opened) == 1


def test_two_hospitals_do_not_see_each_others_cases(
    mirror: Mirror, store: ReviewStore, tmp_path: Path
) -> None:
    other = hospital(tmp_path / "other")
    for each in (mirror, other):
        each.add(pictures("pancreas", NEW["pancreas"], 20))
    north = triage(mirror, Eye(), store, "north")
    south = triage(other, Eye(), store, "south")
    assert len(north.opened) == len(south.opened) == 1
    assert north.opened != south.opened
    assert store.case("south", south.opened[0]).hospital == "south"
    other.close()


def test_no_more_cases_than_asked_are_opened_at_once(mirror: Mirror, store: ReviewStore) -> None:
    for name, shape in NEW.items():
        mirror.add(pictures(name, shape, 30))
    config = TriageConfig(most_new_cases=2)
    assert len(triage(mirror, Eye(), store, "north", config).opened) == 2
    assert len(triage(mirror, Eye(), store, "north", config).opened) == 1


def test_the_threshold_is_that_of_held_back_images_where_there_are_enough(
    mirror: Mirror, store: ReviewStore
) -> None:
    held_back = mirror.ids(named=True)[::3]
    entropies = np.sort(Eye().look(mirror.pixels(held_back)).entropy_fractions)
    report = triage(mirror, Eye(), store, "north", held_back=held_back)
    assert report.threshold == pytest.approx(entropies[57])  # the 58th of 60: ceil(61 * 0.95)
    assert (
        triage(mirror, Eye(), store, "north", held_back=held_back[:49]).threshold
        == triage(mirror, Eye(), store, "north").threshold
    )


def test_one_triage_of_a_mirror_at_a_time(mirror: Mirror, store: ReviewStore) -> None:
    with alone(mirror.folder) as is_alone:
        assert is_alone
        with pytest.raises(TriageError, match="one at a time"):
            triage(mirror, Eye(), store, "north")
    assert triage(mirror, Eye(), store, "north").undecided is None


def test_a_triage_needs_one_and_the_same_model(mirror: Mirror, store: ReviewStore) -> None:
    eye = Eye()
    with pytest.raises(TriageError, match="load the champion first"):
        eye.facts = None  # type: ignore[assignment]  # changes its type
        triage(mirror, eye, store, "north")
    eye.facts = replace(Eye().facts, digest="sha256:other")
    look = eye.look
    eye.look = lambda images: replace(look(images), model="sha256:one")  # type: ignore[method-assign]  # patched
    with pytest.raises(TriageError, match="became sha256:one during a triage"):
        triage(mirror, eye, store, "north")


class Dying(Eye):
    """A model whose process is killed at its second look at unnamed images.

    The first was at the history.
    """

    def look(self, images: Any) -> Any:
        if len(self.seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().look(images)


def be_killed(folder: Any) -> None:
    """Run by a process of its own."""
    mirror = Mirror.open_existing(Path(folder) / "mirror")
    triage(mirror, Dying(), ReviewStore(f"sqlite:///{folder}/console.sqlite"), "north")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that cannot be caught")
def test_a_triage_that_was_killed_is_finished_by_the_next(
    mirror: Mirror, store: ReviewStore, tmp_path: Path
) -> None:
    mirror.add(pictures("pancreas", NEW["pancreas"], 700))
    code = (
        "import importlib.util as u, sys; spec = u.spec_from_file_location('triage_test', "
        "sys.argv[1]); module = u.module_from_spec(spec); "
        "spec.loader.exec_module(module); module.be_killed(sys.argv[2])"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", code, __file__, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert store.cases("north").total == 0
    eye = Eye()
    report = triage(mirror, eye, store, "north")
    assert len(report.opened) == 1
    assert (
        len(
            [
                image_id
                for image_id in image_ids(store, report.opened[0])
                if image_id.startswith("pancreas")
            ]
        )
        == 700
    )
    assert eye.seen == [790 - 512]  # the history and the first 512 are remembered


def test_a_case_that_was_opened_before_a_crash_is_not_opened_again(
    mirror: Mirror, store: ReviewStore
) -> None:
    mirror.add(pictures("pancreas", NEW["pancreas"], 20))
    first = triage(mirror, Eye(), store, "north")
    for name in ("triage.sqlite", "triage.sqlite-wal", "triage.sqlite-shm"):
        (mirror.folder / name).unlink(missing_ok=True)  # as if nothing had been remembered
    assert triage(mirror, Eye(), store, "north").opened == ()
    assert store.cases("north").total == len(first.opened) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"quantile": 1.0}, "quantile is 1.0"),
        ({"tightness": 1.5}, "tightness is 1.5"),
        ({"minimum_group": 1}, "minimum_group is 1"),
        ({"most_history": 10}, "most_history is 10"),
        ({"score": "entropie"}, "score"),
        ({"minimun_group": 9}, "minimun_group"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises((pydantic.ValidationError, ValueError), match=message):
        TriageConfig(**wrong)


def test_a_model_of_ours_looks_in_this_process(
    mirror: Mirror, store: ReviewStore, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    from incremental.head import grow_head
    from incremental.model_file import save_model
    from incremental.network import NetworkConfig, initial_weights
    from twin.review.image_model import ImageModel

    config = NetworkConfig(backbone="lenet", width=4, image_size=16)
    save_model(
        tmp_path / "model",
        grow_head(initial_weights(config, 1), 3, torch.Generator().manual_seed(1)),
        config,
        tuple(KNOWN),
        {},
    )
    report = triage(
        mirror, ImageModel(tmp_path / "model"), store, "north", TriageConfig(score="distance")
    )
    assert (report.num_judged, report.num_history, report.undecided) == (90, 180, None)
