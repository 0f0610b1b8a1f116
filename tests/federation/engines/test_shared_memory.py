from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from federation.engines.shared_memory import pack, unpack


@dataclass(frozen=True)
class Message:
    name: str
    weights: dict[str, Tensor]


TENSORS = {
    "float": torch.rand(3, 4),
    "half": torch.rand(5).to(torch.bfloat16),
    "whole": torch.arange(7),
    "bool": torch.tensor([True, False]),
    "byte": torch.arange(9, dtype=torch.uint8),
    "scalar": torch.tensor(3),
    "empty": torch.empty(0, 4),
    "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "every second": torch.arange(10.0)[::2],
    "turned": torch.rand(3, 4).T,
}


def test_a_message_comes_out_as_it_went_in() -> None:
    message = Message("north", TENSORS)
    found = unpack(pack(message))
    assert found.name == "north" and list(found.weights) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert (
            torch.equal(found.weights[name], tensor) and found.weights[name].dtype == tensor.dtype
        ), name


@pytest.mark.parametrize("name", ["channels last", "turned"])
def test_the_order_in_memory_of_a_dense_tensor_is_kept(name: str) -> None:
    assert unpack(pack(TENSORS[name])).stride() == TENSORS[name].stride()


def test_a_tensor_that_is_held_many_times_is_packed_once() -> None:
    weights = {"w": torch.rand(1000)}
    one, many = (
        pack(Message("a", weights)),
        pack([Message(str(index), weights) for index in range(50)]),
    )
    assert len(one.block) == len(many.block) == 4032  # 4,000 bytes, to the next 64
    assert len(many.content) < 4000


def test_tensors_lie_in_shared_memory_and_are_not_copied_on_opening() -> None:
    parcel = pack({"w": torch.zeros(4)})
    assert parcel.block.is_shared()
    found = unpack(parcel)
    parcel.block.view(torch.float32)[0] = 5
    assert found["w"].tolist()[:1] == [5]


def test_a_gradient_does_not_travel() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    assert not unpack(pack(parameter)).requires_grad


def test_a_message_without_tensors_needs_no_block() -> None:
    assert unpack(pack({"round": 3})) == {"round": 3}
