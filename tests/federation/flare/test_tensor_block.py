import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from federation.flare.record_limits import Limits, RecordError
from federation.flare.tensor_block import DTYPES, pieces, read

MIB = 2**20
TENSORS = {
    "float": torch.tensor([[1.5, -0.0], [float("nan"), float("-inf")]]),
    "half": torch.rand(5).to(torch.bfloat16),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(3),
    "empty": torch.empty(0, 4),
    "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "turned": torch.rand(3, 4).T,
}


def block(header: Any, data: bytes = b"", length: int | None = None) -> memoryview:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return memoryview(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(
    dtype: list[str] | str = "F32",
    shape: tuple[Any, ...] = (2,),
    data_offsets: tuple[int, ...] = (0, 8),
    **more: Any,
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(data_offsets), **more}


def joined(tensors: dict[str, Any]) -> memoryview:
    return memoryview(b"".join(pieces(tensors)))


@given(data=st.data())
def test_tensors_of_every_type_shape_and_layout_keep_every_bit(
    data: Any, any_tensor: Any, same: Callable[..., Any]
) -> None:
    tensors = data.draw(st.dictionaries(st.text("ab/.é", max_size=5), any_tensor, max_size=4))
    found = read(joined(tensors), Limits())
    assert same(found, tensors)
    assert all(each.is_contiguous() for each in found.values())


def test_the_types_that_a_network_or_a_packed_update_has_can_be_written() -> None:
    floating, whole = (
        {torch.float32, torch.bfloat16, torch.float16},
        {torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool},
    )
    assert floating | whole <= set(DTYPES.values())


def test_the_payload_of_a_nan_comes_back() -> None:
    odd = torch.tensor([0x7FC12345, 0xFFC00001 - 2**32, -(2**31)], dtype=torch.int32).view(
        torch.float32
    )
    assert (
        read(joined({"w": odd}), Limits())["w"].view(torch.int32).tolist()
        == odd.view(torch.int32).tolist()
    )


def test_the_library_of_the_format_reads_what_is_written_here(same: Callable[..., Any]) -> None:
    found = safetensors.torch.load(bytes(joined(TENSORS)))
    assert all(same(found[name], TENSORS[name]) for name in TENSORS)


def test_what_the_library_writes_is_read_here(same: Callable[..., Any]) -> None:
    written = safetensors.torch.save({name: each.contiguous() for name, each in TENSORS.items()})
    found = read(memoryview(written), Limits())
    assert found.keys() == TENSORS.keys() and all(
        same(found[name], TENSORS[name]) for name in TENSORS
    )


def test_no_tensors_are_a_block_as_well() -> None:
    assert read(joined({}), Limits()) == {}


def test_what_is_read_can_be_written_to_and_does_not_change_the_record() -> None:
    record = joined({"w": torch.zeros(3)})
    before = bytes(record)
    read(record, Limits())["w"].add_(1)
    assert bytes(record) == before


def test_a_gradient_does_not_travel() -> None:
    assert not read(joined({"w": torch.nn.Parameter(torch.ones(2))}), Limits())["w"].requires_grad


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2).to_sparse(),
        torch.zeros(2).to(torch.float8_e5m2),
    ],
    ids=str,
)
def test_a_tensor_that_the_format_does_not_have_is_refused(wrong: Tensor) -> None:
    with pytest.raises(RecordError, match="convert it"):
        pieces({"w": wrong})


def test_the_name_that_means_something_else_is_refused_both_ways() -> None:
    with pytest.raises(RecordError, match="another name"):
        pieces({"__metadata__": torch.zeros(2)})
    with pytest.raises(RecordError):
        read(block({"__metadata__": {"format": "pt"}}), Limits())
    with pytest.raises(RecordError):
        read(block({"__metadata__": entry()}, bytes(8)), Limits())


EIGHT = bytes(8)
HOSTILE = {
    "a tensor of 2 GiB that is not there": block(
        {"w": entry(shape=(2**29,), data_offsets=(0, 2**31))}, EIGHT
    ),
    "two tensors at one place": block({"v": entry(), "w": entry()}, EIGHT),
    "two tensors that overlap": block({"v": entry(), "w": entry(data_offsets=(4, 12))}, bytes(12)),
    "a gap": block({"v": entry(), "w": entry(data_offsets=(12, 20))}, bytes(20)),
    "the second tensor first": block({"v": entry(data_offsets=(8, 16)), "w": entry()}, bytes(16)),
    "bytes behind the last tensor": block({"w": entry()}, bytes(9)),
    "bytes behind no tensor": block({}, b"x"),
    "a negative size": block({"w": entry(shape=(-2, -1))}, EIGHT),
    "a size that is no whole number": block({"w": entry(shape=(2.0,))}, EIGHT),
    "a size that is true": block({"w": entry(shape=(True, 2))}, EIGHT),
    "a shape that is no list": block({"w": {**entry(), "shape": 2}}, EIGHT),
    "a hundred thousand dimensions": block(
        {"w": entry(shape=(1,) * 100_000, data_offsets=(0, 4))}, bytes(4)
    ),
    "nothing, times 2 to the 62": block({"w": entry(shape=(0, 2**62, 2**62), data_offsets=(0, 0))}),
    "a size of more than 64 bits": block({"w": entry(shape=(0, 2**70), data_offsets=(0, 0))}),
    "offsets that go back": block({"w": entry(data_offsets=(8, 0))}, EIGHT),
    "negative offsets": block({"w": entry(data_offsets=(-8, 0))}, EIGHT),
    "three offsets": block({"w": entry(data_offsets=(0, 8, 8))}, EIGHT),
    "an unknown type": block({"w": entry("C64", (1,))}, EIGHT),
    "a type that is no text": block({"w": entry(["F32"])}, EIGHT),
    "a size that is not the shape's": block({"w": entry("F64")}, EIGHT),
    "a name twice": block(b'{"w":%s,"w":%s}' % ((json.dumps(entry()).encode(),) * 2), EIGHT),
    "a field twice": block(
        b'{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', EIGHT
    ),
    "a field that nobody knows": block({"w": entry(device="cuda")}, EIGHT),
    "a field that is missing": block({"w": {"dtype": "F32", "shape": [2]}}, EIGHT),
    "a tensor that is a number": block({"w": 3}),
    "a control character in a name": block({"w\n": entry()}, EIGHT),
    "a name of ten thousand letters": block({"w" * 10_000: entry()}, EIGHT),
    "a truth value of 2": block({"w": entry("BOOL", (8,))}, bytes(7) + b"\2"),
    "a header of 2 to the 63 bytes": block({}, length=2**63),
    "a header of more than there is": block({}, length=3),
    "a list": block([]),
    "no JSON": block(b"{"),
    "no UTF-8": block(b'{"\xff":1}'),
    "a number that JSON does not have": block(b'{"w":NaN}'),
    "lists in lists in lists": block(b"[" * 100_000),
    "no header": memoryview(bytes(8)),
    "no length": memoryview(b"1234567"),
    "nothing": memoryview(b""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_block_is_refused_in_words(name: str) -> None:
    with pytest.raises(RecordError, match=r"; allowed: .*; let the sender send it again") as caught:
        read(HOSTILE[name], Limits())
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()


def test_more_tensors_than_allowed_are_refused() -> None:
    record = joined({str(index): torch.zeros(0) for index in range(11)})
    assert len(read(record, Limits(tensors=11))) == 11
    with pytest.raises(RecordError, match="11 tensors; allowed: at most 10"):
        read(record, Limits(tensors=10))


def test_a_header_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(RecordError, match="at most 100"):
        read(block(b" " * 101), Limits(header_bytes=100))
