from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.budget import CLASS_COUNTS, CONFIGS, MARKS, protocol_of, write_between_marks
from benchmarks.flops import (
    count_bytes,
    forward_flops_per_image,
    model_flops_per_image,
    model_step,
    traffic,
)
from benchmarks.measuring import duration, scaled, table, time_in_turns
from benchmarks.round_tables import ROUNDS_PER_TASK, task_seconds
from federation.experiment.config import load_experiment
from incremental.network import IncrementalNetwork, NetworkConfig

SMALL = NetworkConfig(backbone="resnet10", width=4, image_size=16)


def first_convolution(config: NetworkConfig) -> int:
    return 2 * 9 * config.channels * config.width * config.image_size**2


def test_operations_of_a_forward_pass_are_those_of_convolutions_and_head() -> None:
    width, side = SMALL.width, SMALL.image_size
    convolutions = first_convolution(SMALL)
    for stage in range(4):
        before, channels, places = (
            width * 2 ** max(stage - 1, 0),
            width * 2**stage,
            (side // 2**stage) ** 2,
        )
        convolutions += 2 * places * channels * 9 * (before + channels) + (
            2 * places * channels * before if stage else 0
        )
    assert forward_flops_per_image(SMALL, 6) == convolutions + 2 * 8 * width * 6


def test_operations_of_a_step_follow_the_budgets_formula() -> None:
    student, teacher = forward_flops_per_image(SMALL, 6), forward_flops_per_image(SMALL, 3)
    assert model_flops_per_image(SMALL, 6, 3) == 3 * student - first_convolution(SMALL) + teacher
    assert model_flops_per_image(SMALL, 6, 0) == 3 * student - first_convolution(SMALL)


def test_a_whole_steps_operations_are_what_torchs_counter_says() -> None:
    network, images = IncrementalNetwork(SMALL, 6), torch.rand(4, 3, 16, 16)
    with FlopCounterMode(display=False) as counter:
        network(images).logits.sum().backward()
    assert counter.get_total_flops() == 4 * model_flops_per_image(SMALL, 6, 0)


def test_bytes_are_what_is_read_and_written_and_views_are_free() -> None:
    one, other = torch.ones(10, 10), torch.ones(10, 10)
    assert count_bytes(lambda: one + other) == 3 * 400
    assert count_bytes(lambda: one.view(100).t()) == 0


def test_the_traffic_of_a_step_lies_on_a_line() -> None:
    fixed, each = traffic(lambda size: model_step(SMALL, size, 6, 3))
    assert count_bytes(model_step(SMALL, 8, 6, 3)) == pytest.approx(fixed + 8 * each, rel=0.01)
    assert fixed > 0
    assert each > 0


def test_the_budget_takes_its_numbers_from_the_protocol() -> None:
    config = load_experiment(CONFIGS / "cifar100_t10_paper")
    second = protocol_of(config, 4)
    assert (second.twins, second.rows, second.old_rows, second.prototypes_per_twin) == (
        50,
        50,
        40,
        6,
    )
    assert second.arrivals <= 3000
    assert second.exemplars <= 2000
    assert sum(CLASS_COUNTS["organamnist"]) == 34_561


def test_a_document_keeps_the_text_around_its_budget(tmp_path: Path) -> None:
    path = tmp_path / "performance.md"
    path.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    write_between_marks(path, "new")
    assert path.read_text() == f"before\n{MARKS[0]}\n\nnew\n\n{MARKS[1]}\nafter\n"
    path.write_text("nothing")
    with pytest.raises(SystemExit, match="no marks"):
        write_between_marks(path, "new")


def test_works_are_timed_in_turns_after_a_warm_up() -> None:
    calls: list[str] = []
    seconds = time_in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert set(seconds) == {"a", "b"}


def test_a_table_is_markdown() -> None:
    assert table(("what", "n"), [("x", 10)]) == "| what |  n |\n| ---- | -: |\n| x    | 10 |"
    assert scaled(1.234e9, "FLOP") == "1.23 GFLOP"
    assert duration(0.0123) == "12.3 ms"
    assert duration(1200) == "20 min"


def test_only_the_twins_part_of_a_tasks_seconds_grows_with_the_images() -> None:
    first = {
        "observe": 2.0,
        "score": 1.0,
        "train": 10.0,
        "prototypes": 1.0,
        "aggregate": 5.0,
        "all": 20.0,
    }
    later = {
        "observe": 1.0,
        "score": 1.0,
        "train": 10.0,
        "prototypes": 0.0,
        "aggregate": 1.0,
        "all": 13.5,
    }
    others = ROUNDS_PER_TASK - 1
    same, more = task_seconds(first, later), task_seconds(first, later, images=10)
    assert same["all"] == pytest.approx(20.0 + others * 13.5)
    assert more["proxy"] == same["proxy"] == 6.0 + others * 2.0
    assert more["twins"] == 10 * same["twins"]
