"""Messages between processes of one machine, their tensors in one block of shared memory.

A tensor that a message holds many times (the global model in every broadcast of a round) lies in
the block once, and whoever opens the message looks at the block: weights are shared, never sent.
"""

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor

_ALIGNMENT = 64  # bytes; a tensor begins where vector instructions like it

# What stands in the bytes for a tensor: where it begins in the block [bytes], dtype, shape, stride.
Place = tuple[int, torch.dtype, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class SharedMessage:
    """A message on its way.

    Args:
        content: The message without its tensors.
        block: The tensors; shared memory, shape [bytes].
    """

    content: bytes
    block: Tensor


def use_file_system_sharing() -> None:
    """Let shared memory be a file for each block, not a descriptor that stays open."""
    set_strategy: Callable[[str], None] = torch.multiprocessing.set_sharing_strategy
    set_strategy("file_system")


def shared(tensor: Tensor) -> Tensor:
    """Move a tensor into shared memory and return it."""
    moved: Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]  # torch
    return moved


def pack(message: Any) -> SharedMessage:
    """Return a message as a parcel; each of its tensors is copied once, detached."""
    content = io.BytesIO()
    packer = _Packer(content)
    packer.dump(message)
    block = shared(torch.empty(max(packer.size, 1), dtype=torch.uint8))
    for tensor, place in packer.packed.values():
        _look(block, place).copy_(tensor.detach())
    return SharedMessage(content.getvalue(), block)


def unpack(parcel: SharedMessage) -> Any:
    """Return the content of a message; its tensors lie in the shared block: do not change them."""
    return _Unpacker(parcel).load()


def _look(block: Tensor, place: Place) -> Tensor:
    start, dtype, shape, stride = place
    end = start + torch.Size(shape).numel() * dtype.itemsize
    return block[start:end].view(dtype).as_strided(shape, stride)


class _Packer(pickle.Pickler):
    def __init__(self, content: io.BytesIO) -> None:
        super().__init__(content, pickle.HIGHEST_PROTOCOL)
        self.packed: dict[int, tuple[Tensor, Place]] = {}
        self.size = 0

    def persistent_id(self, value: Any) -> Place | None:
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self.packed:
            dense = torch.empty_like(
                value, device="meta"
            )  # keeps the order of dimensions where the tensor has no gaps
            self.packed[id(value)] = (
                value,
                (self.size, value.dtype, tuple(value.shape), dense.stride()),
            )
            self.size += -(-value.numel() * value.element_size() // _ALIGNMENT) * _ALIGNMENT
        return self.packed[id(value)][1]


class _Unpacker(pickle.Unpickler):
    def __init__(self, parcel: SharedMessage) -> None:
        super().__init__(io.BytesIO(parcel.content))
        self._block = parcel.block

    def persistent_load(self, place: Place) -> Tensor:
        return _look(self._block, place)
