"""Device of networks: choose CPU or GPU, and move tensors there.

On a GPU a twin works inside ``default_device``: inputs are moved to the device, new tensors are
made there, and outputs are moved back to the CPU. So no method names a device.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

DeviceName = Literal["auto", "cpu", "cuda"]
CPU = torch.device("cpu")


class DeviceError(ValueError):
    """A device that this machine does not have."""


def pick_device(name: DeviceName) -> torch.device:
    """Return the device of a name; ``auto`` is the GPU where torch can use one.

    Raises:
        DeviceError: If it is ``cuda`` and torch can use no GPU.
    """
    there = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not there:
        raise DeviceError(
            "engine.device is 'cuda' and torch finds no GPU that it can use; set it to 'cpu' or "
            "'auto', or mend the driver"
        )
    return torch.device("cuda") if there else CPU


def device_title(device: torch.device) -> str:
    """Return the device's name for people."""
    return "the CPU" if device.type == "cpu" else f"the GPU {torch.cuda.get_device_name(device)}"


def default_device(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which new tensors are made on a device by default."""
    return nullcontext() if device.type == "cpu" else device


def generator_on(device: torch.device, seed: int) -> torch.Generator:
    """Return a seeded generator on a device; each kind of device draws other numbers."""
    return torch.Generator(device).manual_seed(seed)


def to_device(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return tensors on a device; those already there are not copied."""
    return {name: value.to(device) for name, value in tensors.items()}
