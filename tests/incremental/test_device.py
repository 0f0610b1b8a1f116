from typing import Any

import pytest
import torch

from incremental.device import (
    CPU,
    DeviceError,
    default_device,
    device_title,
    generator_on,
    pick_device,
    to_device,
)


@pytest.fixture
def with_gpu(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_auto_is_the_cpu_where_there_is_no_gpu_and_the_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [pick_device(name).type for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]


def test_a_gpu_that_is_asked_for_and_is_not_there_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"engine\.device is 'cuda' .* set it to 'cpu' or 'auto'"):
        pick_device("cuda")


def test_new_tensors_are_made_on_the_device_inside_the_context() -> None:
    with default_device(torch.device("meta")):
        assert torch.zeros(1).device.type == "meta"
    with default_device(CPU):
        assert torch.zeros(1).device == CPU
    assert torch.zeros(1).device == CPU


def test_tensors_are_moved_and_those_that_are_there_stay_the_same_objects() -> None:
    here = {"a": torch.ones(2)}
    assert to_device(here, CPU)["a"] is here["a"]
    assert to_device(here, torch.device("meta"))["a"].device.type == "meta"


def test_draws_on_the_cpu_are_those_of_the_seed() -> None:
    assert torch.equal(
        torch.rand(3, generator=generator_on(CPU, 5)),
        torch.rand(3, generator=torch.Generator().manual_seed(5)),
    )


def test_a_device_has_a_name_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Example 100")
    assert device_title(CPU) == "the CPU"
    assert device_title(torch.device("cuda")) == "the GPU Example 100"
