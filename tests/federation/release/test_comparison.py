import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from federation.release.comparison import MAP_SIDE, HeldOut, compare
from federation.release.findings import ComparisonError, read_comparison
from incremental.model_file import load_model
from incremental.prediction import predict

ORGANS = ("liver", "spleen", "heart", "bladder")


def predictions(folder: Path, images: np.ndarray) -> tuple[list[str], list[float]]:
    network, manifest = load_model(folder)
    seen = predict(network, images)
    return [manifest["class_names"][row] for row in seen.rows], [
        float(each) for each in seen.probabilities.max(1)
    ]


def test_numbers_equal_a_count_by_hand(model: Callable[..., Path], held_out: HeldOut) -> None:
    champion, candidate = model(ORGANS[:3], 1), model(ORGANS, 2)
    found, _ = compare(candidate, champion, held_out)
    (before, _), (after, sure) = (
        predictions(champion, held_out.images),
        predictions(candidate, held_out.images),
    )
    right_before = [one == name for one, name in zip(before, held_out.truth, strict=True)]
    right_after = [one == name for one, name in zip(after, held_out.truth, strict=True)]
    assert found.candidate.accuracy == sum(right_after) / 120
    assert found.champion is not None and found.champion.accuracy == sum(right_before) / 120
    scores = []
    for name in ORGANS:
        own = [number for number in range(120) if held_out.truth[number] == name]
        hits = sum(right_after[number] for number in own)
        named = sum(one == name for one in after)
        scores.append(2 * hits / (len(own) + named))
        (line,) = [each for each in found.classes if each.class_name == name]
        assert (line.num_images, line.is_new) == (30, name == "bladder")
        assert line.candidate_accuracy == pytest.approx(hits / 30)
        if name == "bladder":
            assert line.champion_accuracy is None and line.loss_points is None
        else:
            old = sum(right_before[number] for number in own) / 30
            assert line.champion_accuracy == pytest.approx(old)
            assert line.loss_points == pytest.approx(100 * (old - hits / 30))
    assert found.candidate.macro_f1 == pytest.approx(sum(scores) / 4)
    error = 0.0
    for step in range(15):
        members = [number for number in range(120) if step / 15 < sure[number] <= (step + 1) / 15]
        if members:
            gap = sum(right_after[number] for number in members) / len(members) - sum(
                sure[number] for number in members
            ) / len(members)
            error += len(members) / 120 * abs(gap)
    assert found.candidate.calibration_error == pytest.approx(error)
    assert found.known_accuracy.num_images == 90
    assert found.known_accuracy.candidate == pytest.approx(sum(right_after[:90]) / 90)
    assert found.known_accuracy.champion == pytest.approx(sum(right_before[:90]) / 90)
    assert found.num_changed == sum(one != other for one, other in zip(before, after, strict=True))
    assert found.num_broken == sum(
        one and not other for one, other in zip(right_before, right_after, strict=True)
    )
    assert found.num_mended == sum(
        other and not one for one, other in zip(right_before, right_after, strict=True)
    )
    for each in found.hospitals:
        own = [number for number in range(90) if held_out.hospitals[number] == each.hospital]
        assert each.num_images == len(own)
        share = sum(right_after[number] for number in own) / len(own)
        assert each.candidate_accuracy == pytest.approx(share)


def test_changed_images_are_listed_with_hospital_both_predictions_and_maps(
    model: Callable[..., Path], held_out: HeldOut
) -> None:
    champion, candidate = model(ORGANS[:3], 1), model(ORGANS, 2)
    found, maps = compare(candidate, champion, held_out)
    (before, sure_before), (after, sure) = (
        predictions(champion, held_out.images),
        predictions(candidate, held_out.images),
    )
    assert len(found.changed) == min(found.num_changed, 60) > 0
    for each in found.changed:
        place = held_out.image_ids.index(each.image_id)
        assert (each.hospital, each.truth) == (held_out.hospitals[place], held_out.truth[place])
        assert (each.before, each.after) == (before[place], after[place])
        assert each.before != each.after
        assert each.before_probability == pytest.approx(sure_before[place])
        assert each.after_probability == pytest.approx(sure[place])
    assert [each.number for each in found.changed] == list(range(len(found.changed)))
    for values in (maps.before, maps.after):
        assert values.dtype == np.uint8
        assert values.shape == (len(found.changed), MAP_SIDE, MAP_SIDE)
        assert set(values.max((1, 2)).tolist()) <= {0, 255}
    with np.load(io.BytesIO(maps.as_bytes()), allow_pickle=False) as stored:
        assert np.array_equal(stored["before"], maps.before) and np.array_equal(
            stored["after"], maps.after
        )


def test_broken_images_come_first_and_some_mended_ones_are_listed(
    model: Callable[..., Path], held_out: HeldOut
) -> None:
    champion, candidate = model(ORGANS[:3], 1), model(ORGANS, 2)
    found, _ = compare(candidate, champion, held_out, most_examples=6)
    kinds = [
        0 if each.before == each.truth else 2 if each.after == each.truth else 1
        for each in found.changed
    ]
    assert kinds == sorted(kinds)
    assert len(kinds) == 6
    assert kinds.count(2) >= min(2, found.num_mended)


def test_attention_map_is_high_where_the_predicted_class_has_its_evidence(
    model: Callable[..., Path], held_out: HeldOut
) -> None:
    champion, candidate = model(ORGANS[:3], 1), model(ORGANS, 2)
    found, maps = compare(candidate, champion, held_out)
    network, manifest = load_model(candidate)
    for each in found.changed[:5]:
        image = held_out.images[held_out.image_ids.index(each.image_id)]
        outputs = network(torch.from_numpy(image)[None, None].float() / 255)
        heat = torch.relu(
            (
                network.head.weight[manifest["class_names"].index(each.after)][:, None, None]
                * outputs.maps[0]
            ).sum(0)
        )
        if heat.max() > 0:
            row, column = divmod(int(heat.argmax()), heat.shape[1])
            scale = MAP_SIDE / heat.shape[0]
            assert (
                maps.after[each.number, int((row + 0.5) * scale), int((column + 0.5) * scale)] > 200
            )
        else:
            assert not maps.after[each.number].any()


def test_equal_models_lose_nothing(model: Callable[..., Path], held_out: HeldOut) -> None:
    one = model(ORGANS, 1)
    found, maps = compare(one, one, held_out)
    assert (found.num_changed, found.num_broken, found.num_mended, found.changed) == (0, 0, 0, ())
    assert all(each.loss_points == 0 for each in found.classes)
    assert all(each.loss_points == 0 for each in found.hospitals)
    assert found.candidate == found.champion
    assert len(maps.before) == 0


def test_first_model_is_compared_with_nothing(
    model: Callable[..., Path], held_out: HeldOut
) -> None:
    found, maps = compare(model(ORGANS, 1), None, held_out)
    assert found.champion is None
    assert all(
        each.champion_accuracy is None and each.loss_points is None for each in found.classes
    )
    assert (found.changed, len(maps.after)) == ((), 0)


def test_class_without_images_has_no_accuracy(
    model: Callable[..., Path], held_out: HeldOut
) -> None:
    some = HeldOut(
        held_out.images[:60], held_out.truth[:60], held_out.hospitals[:60], held_out.image_ids[:60]
    )
    found, _ = compare(model(ORGANS, 2), model(ORGANS[:3], 1), some)
    heart, bladder = found.classes[2:]
    assert (heart.num_images, heart.candidate_accuracy, heart.loss_points) == (0, None, None)
    assert (bladder.num_images, bladder.candidate_accuracy) == (0, None)


def test_class_missing_in_the_candidate_is_in_the_comparison(
    model: Callable[..., Path], held_out: HeldOut
) -> None:
    found, _ = compare(model(ORGANS[:2], 2), model(ORGANS[:3], 1), held_out)
    heart = next(each for each in found.classes if each.class_name == "heart")
    assert heart.candidate_accuracy == 0.0


def test_saved_comparison_is_read_unchanged(
    compared: Callable[..., Path], model: Callable[..., Path], held_out: HeldOut
) -> None:
    candidate, champion = model(ORGANS, 2), model(ORGANS[:3], 1)
    found, verdict = read_comparison(compared(candidate, champion))
    assert found == compare(candidate, champion, held_out)[0]
    assert verdict is not None and verdict["overall"] in ("green", "amber", "red")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"candidate": 3}', "\x00"])
def test_damaged_comparison_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(ComparisonError, match="holds no comparison"):
        read_comparison(tmp_path / "comparison.json")


def test_comparison_without_images_is_an_error(model: Callable[..., Path]) -> None:
    with pytest.raises(ComparisonError, match="0 held-out images"):
        compare(model(ORGANS), None, HeldOut(np.empty((0, 16, 16), np.uint8), (), (), ()))
    with pytest.raises(ComparisonError, match="one of each per image"):
        HeldOut(np.empty((1, 16, 16), np.uint8), (), (), ())
