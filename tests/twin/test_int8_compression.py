import pytest
import torch

from tests.twin.packed_examples import (
    changes,
    generator,
    moved,
    pack_and_unpack,
    same,
    some_weights,
)
from twin.compression import CompressionConfig


def test_int8_with_error_feedback_rounds_to_the_nearest_step_of_each_output_channel() -> None:
    reference = some_weights()
    weights = moved(reference, 2)
    seen, left, packed = pack_and_unpack(weights, reference, CompressionConfig("int8"))
    assert packed.tensors["values"].dtype == torch.int8
    scales = iter(packed.tensors["scales"].tolist())
    for name, change in (
        (name, changes(weights, reference)[name]) for name in sorted(changes(weights, reference))
    ):
        channels = list(change) if change.ndim > 1 else [change]
        for channel, sent, rest in zip(
            channels,
            list(seen[name] - reference[name])
            if change.ndim > 1
            else [seen[name] - reference[name]],
            list(left[name]) if change.ndim > 1 else [left[name]],
            strict=True,
        ):
            scale = max(abs(float(value)) for value in channel.flatten()) / 127
            assert next(scales) == pytest.approx(scale, rel=1e-6)
            for value, arrived, remembered in zip(
                channel.flatten()[:9], sent.flatten()[:9], rest.flatten()[:9], strict=True
            ):
                expected = round(float(value) / scale) * scale
                assert float(arrived) == pytest.approx(expected, abs=2e-6)
                assert float(remembered) == pytest.approx(float(value) - expected, abs=2e-6)
                assert abs(float(remembered)) <= scale / 2 + 1e-7


def test_int8_without_error_feedback_is_right_in_expectation() -> None:
    reference = {"head.weight": torch.zeros(2, 50)}
    weights = {"head.weight": torch.randn(2, 50, generator=generator(3))}
    config = CompressionConfig("int8", error_feedback=False)
    draws = 2000
    mean = (
        sum(
            pack_and_unpack(weights, reference, config, seed=seed)[0]["head.weight"].double()
            for seed in range(draws)
        )
        / draws
    )
    scale = weights["head.weight"].abs().amax(1, keepdim=True) / 127
    # One draw is off by less than a step, with a standard deviation of at most half of one; five of
    # the mean's are allowed.
    assert bool(((mean - weights["head.weight"]).abs() < 5 * scale / 2 / draws**0.5).all())


def test_int8_without_error_feedback_rounds_to_one_of_the_two_neighbouring_steps() -> None:
    reference, weights = (
        {"bias": torch.zeros(200)},
        {"bias": torch.randn(200, generator=generator(4))},
    )
    _, left, packed = pack_and_unpack(
        weights, reference, CompressionConfig("int8", error_feedback=False)
    )
    steps = weights["bias"] / packed.tensors["scales"]
    whole = packed.tensors["values"].float()
    assert left == {}
    assert bool(((whole == steps.floor()) | (whole == steps.ceil())).all())
    assert bool((whole == steps.floor()).any()) and bool((whole == steps.ceil()).any())


def test_int8_of_no_change_is_no_change() -> None:
    reference = some_weights()
    seen, left, _ = pack_and_unpack(reference, reference, CompressionConfig("int8"))
    assert same(seen, reference)
    assert all(not bool(value.any()) for value in left.values())
